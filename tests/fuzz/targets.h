// What is fuzzed: one function for each kind of file that another program may have written. Each
// takes the file's bytes and reads them as the program does. The program's own refusal (an Error
// with the exit code of that kind of file) is a return; anything else is a finding: another
// exception leaves the function, a sanitizer or a signal ends the process.
//
// The functions are called by libFuzzer (fuzz_main.cpp) and, for the files of corpus/, by the
// normal test suite (corpus_test.cpp). They need no MPI.
#pragma once

#include <span>
#include <string_view>

namespace pg::fuzz {

// A deck as TOML, then, after a line "%%", one command-line override a line; for every purpose.
// A deck that is accepted reads back from its resolved text as the same deck.
void deck(std::string_view input);
// manifest.json; also with the digest made right, so that what lies behind it is reached.
void manifest(std::string_view input);
void run_json(std::string_view input);
// choices.json and metrics.jsonl of a run folder.
void choices(std::string_view input);
void metrics(std::string_view input);
// HDF5: opened, listed, verified and read whole; also with every checksum made right.
void token_file(std::string_view input);
void state(std::string_view input);
// A SentencePiece .model: loaded, used to encode and decode.
void tokenizer(std::string_view input);
// Text of `prepare`, plain or gzip: the same text however it is cut into pieces.
void text(std::string_view input);

struct Target {
  const char* name;  // of its folder in corpus/
  void (*run)(std::string_view input);
};
std::span<const Target> targets();

}  // namespace pg::fuzz
