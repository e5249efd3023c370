// What a row of the table in schema_table.cpp is made of: how a key and a field of Deck correspond,
// and the row itself. Included by the files of rows only.
#pragma once

#include <type_traits>
#include <utility>

#include "app/schema.h"

namespace pg::app {

template <class T>
constexpr io::KeyType type_of() {
  if constexpr (std::is_same_v<T, bool>) return io::KeyType::kBool;
  if constexpr (std::is_same_v<T, double>) return io::KeyType::kFloat;
  if constexpr (std::is_same_v<T, std::string>) return io::KeyType::kString;
  if constexpr (std::is_same_v<T, std::vector<std::string>>) return io::KeyType::kStrings;
  return io::KeyType::kInt;
}

template <class Section, class T>
Field at(Section Deck::*section, T Section::*member) {
  return {
      type_of<T>(),
      {},
      [=](Deck& deck, const io::DeckValue& value) { (deck.*section).*member = std::get<T>(value); },
      [=](const Deck& deck) { return io::DeckValue((deck.*section).*member); }};
}

// A field of a struct inside a section.
template <class Section, class Inner, class T>
Field at(Section Deck::*section, Inner Section::*inner, T Inner::*member) {
  return {type_of<T>(),
          {},
          [=](Deck& deck, const io::DeckValue& value) {
            (deck.*section).*inner.*member = std::get<T>(value);
          },
          [=](const Deck& deck) { return io::DeckValue((deck.*section).*inner.*member); }};
}

// A choice held as text.
template <class Section>
Field at(Section Deck::*section, std::string Section::*member, std::vector<std::string> choices) {
  Field field = at(section, member);
  field.type = io::KeyType::kChoice;
  field.choices = std::move(choices);
  return field;
}

// A choice held as an enum, anywhere in the deck: get_ref(deck) is the enum. values[i] is what
// words[i] means, and the first word that means a value is the one it is written as (words of later
// versions stand behind it with any value).
template <class E, class Ref>
Field choice_at(Ref get_ref, std::vector<std::string> words, std::vector<E> values) {
  const auto set = [=](Deck& deck, const io::DeckValue& value) {
    for (std::size_t i = 0; i < words.size(); ++i) {
      if (words[i] == std::get<std::string>(value)) get_ref(deck) = values[i];
    }
  };
  const auto get = [=](const Deck& deck) {
    for (std::size_t i = 0; i < words.size(); ++i) {
      if (values[i] == get_ref(deck)) return io::DeckValue(words[i]);
    }
    return io::DeckValue(std::string());
  };
  return {io::KeyType::kChoice, words, set, get};
}

template <class Section, class E>
Field at(Section Deck::*section, E Section::*member, std::vector<std::string> words,
         std::vector<E> values) {
  return choice_at<E>(
      [=](auto& deck) -> auto& { return (deck.*section).*member; }, std::move(words),
      std::move(values));
}

template <class Section, class Inner, class E>
Field at(Section Deck::*section, Inner Section::*inner, E Inner::*member,
         std::vector<std::string> words, std::vector<E> values) {
  return choice_at<E>(
      [=](auto& deck) -> auto& { return (deck.*section).*inner.*member; }, std::move(words),
      std::move(values));
}

// One row, in the order in which a reader wants to know it.
struct Row {
  const char* name = "";
  Field field;
  unsigned needed_by = 0;
  std::optional<io::DeckValue> fallback{};
  const char* fallback_text = "";
  io::KeyRange range{};
  std::vector<std::string> later{};
  bool reserved = false;
  const char* unit = "";
  const char* doc = "";
};

inline io::KeyRange at_least(double low) {
  return {.low = low};
}
inline io::KeyRange above(double low) {
  return {.low = low, .low_open = true};
}
inline io::KeyRange between(double low, double high) {
  return {.low = low, .high = high};
}
// [0, 1)
inline io::KeyRange fraction() {
  return {.low = 0, .high = 1, .high_open = true};
}

// A key whose feature comes later: its default is the only legal value.
inline Row reserved(const char* name, io::DeckValue fallback, Field field = {}) {
  if (!field.set) {
    static constexpr io::KeyType kTypes[] = {io::KeyType::kBool, io::KeyType::kInt,
                                             io::KeyType::kFloat, io::KeyType::kString,
                                             io::KeyType::kStrings};
    field.type = kTypes[fallback.index()];
  }
  return {.name = name, .field = std::move(field), .fallback = fallback, .reserved = true};
}

// Which purposes require a key.
inline constexpr unsigned kTraining =
    static_cast<unsigned>(Purpose::kTrain) | static_cast<unsigned>(Purpose::kCheck);
inline constexpr unsigned kPreparing = static_cast<unsigned>(Purpose::kPrepare);

inline constexpr double kStepsMax = 999999999;  // nine digits in a checkpoint's name

std::vector<Row> model_rows();
std::vector<Row> moe_rows();
std::vector<Row> saving_rows();

inline SchemaKey schema_key(Row row) {
  const std::string name = row.name;
  const auto dot = name.find('.');
  SchemaKey key;
  key.spec = {.section = name.substr(0, dot),
              .key = name.substr(dot + 1),
              .type = row.field.type,
              .fallback = row.fallback,
              .fallback_text = row.fallback_text,
              .range = row.range,
              .choices = row.field.choices,
              .later = row.later,
              .reserved = row.reserved,
              .unit = row.unit,
              .doc = row.doc};
  key.field = std::move(row.field);
  key.needed_by = row.needed_by;
  return key;
}

}  // namespace pg::app
