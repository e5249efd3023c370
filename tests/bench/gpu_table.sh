#!/usr/bin/env bash
# Writes tests/bench/GPU.md: the method, what can be reached by the data sheets, and beside it the
# results that `make bench-gpu` left in files of JSON lines; without files, "not measured yet".
#
#   tests/bench/gpu_table.sh [--build FOLDER] [FILE.jsonl...]
#   tests/bench/gpu_table.sh --print FILE.jsonl...      only the results, to standard output
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
build=build print=no files=()
while (($# > 0)); do
  case $1 in
    --build) build=$2 && shift ;;
    --print) print=yes ;;
    *) files+=("$1") ;;
  esac
  shift
done
results=$(mktemp)
trap 'rm -f "$results"' EXIT
((${#files[@]} == 0)) || cat "${files[@]}" >"$results"

# The value of a key in a flat line of JSON, and which card it is of.
# shellcheck disable=SC2016  # awk's own
functions='
  function value(key,   at, rest) {
    at = index($0, "\"" key "\": ")
    if (!at) return ""
    rest = substr($0, at + length(key) + 4)
    if (rest ~ /^"/) { rest = substr(rest, 2); sub(/".*/, "", rest) } else sub(/[,}].*/, "", rest)
    return rest
  }
  function card(   gpu) {
    gpu = value("gpu")
    return gpu ~ /H200/ ? "H200" : gpu ~ /H100/ ? "H100" : gpu
  }'

training_results() {
  echo "| case | program | GPU | layers | batch | recompute | tokens/s | TFLOP/s | of the product |" \
    "of 989 | step, ms | peak, GiB | planned, GiB | grown |"
  echo "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"
  awk "$functions"'
    value("bench") == "training" {
      ours = value("program") == "pentagrid"
      rate = value("model_flops"); step = value("step_s") * 1e3
      printf "| %s | %s | %s | %d | %d x %d | %s | %d | %.1f | %.1f %% | %.1f %% | %.1f (%.1f to %.1f) | %.1f | %s | %s |\n",
        value("title"), value("program"), card(), value("layers"), value("micro_batch"), value("seq"),
        value("recompute"), value("tokens_per_s"), rate * 1e-12, 100 * rate / value("product_flops"),
        100 * rate / 989e12, step, value("step_least_s") * 1e3, value("step_most_s") * 1e3,
        value("peak_bytes") / 2^30, ours ? sprintf("%.1f", value("planned_bytes") / 2^30) : "",
        ours ? value("grown_bytes") : ""
      n++
    }
    END {
      if (!n) print "| not measured yet: no GPU was at hand | | | | | | | | | | | | | |"
    }' "$results"
}
ceilings() {
  awk "$functions"'
    value("bench") == "ceilings" {
      printf "- %s: product %.1f TFLOP/s, copy %.0f GB/s.\n", value("gpu"),
        value("product_flops") * 1e-12, value("copy_bytes") * 1e-9
    }' "$results"
  echo
}
kernel_results() {
  echo "| operation | shape | GPU | us | rate | share of the copy or product |"
  echo "|---|---|---|---|---|---|"
  awk "$functions"'
    value("bench") == "kernel" {
      s = value("seconds"); flops = value("flops")
      rate = flops > 0 ? sprintf("%.1f TFLOP/s", flops / s * 1e-12) \
                       : sprintf("%.0f GB/s", value("bytes") / s * 1e-9)
      printf "| %s | %s | %s | %.1f | %s | %.1f %% |\n", value("name"), value("shape"), card(),
        s * 1e6, rate, 100 * value("share")
    }' "$results"
}
if [[ $print == yes ]]; then
  ceilings
  kernel_results
  echo
  training_results
  exit 0
fi

# Tables on paper, by whichever of the programs is built.
floors() {  # PROGRAM
  local program
  for program in "$build/tests/$1" "$build/tests/$1_simulated"; do
    if [[ -x $program ]]; then
      "$program" --floors
      return
    fi
  done
  echo "neither $1 nor $1_simulated is in $build/tests" >&2
  return 1
}
# The floors of kernels, with what was measured behind each.
kernels_beside_floors() {
  floors bench_gpu_kernels | awk "$functions"'
    measuring {
      if (value("bench") == "kernel") {
        at = value("name") SUBSEP value("shape") SUBSEP card()
        measured[at] = sprintf("%.1f", value("seconds") * 1e6)
        share[at] = sprintf("%.1f %%", 100 * value("share"))
      }
      next
    }
    FNR == 1 { print $0 " H100: us | share | H200: us | share |"; next }
    FNR == 2 { print $0 "---|---|---|---|"; next }
    {
      split($0, cell, / \| /); sub(/^\| /, "", cell[1])
      row = $0
      for (c = 1; c <= 2; c++) {
        at = cell[1] SUBSEP cell[2] SUBSEP (c == 1 ? "H100" : "H200")
        row = row (at in measured ? " " measured[at] " | " share[at] " |" : " not measured yet | |")
      }
      print row
    }' measuring=1 "$results" measuring=0 -
}

out=tests/bench/GPU.md
{
  cat <<'TEXT'
# One GPU

What one H100 or H200 (SXM) can reach by its data sheet, and what was measured. `make bench-gpu`
measures; `tests/bench/gpu_table.sh FILE.jsonl` writes this page from what it left.

## Method

- Ceilings are measured in the process that uses them, on random data (a GPU is faster on zeros): a
  bf16 product of 8192^3, and a copy of a gigabyte of bf16, bytes read and bytes written counted. Data
  sheets say 989 TFLOP/s dense bf16 for both cards, 3.35 TB/s for the H100, 4.8 TB/s for the H200.
- Kernels: bf16 operands as large models have them. A time is that of a batch of calls (20 ms or more)
  between two reads of one element, the median of nine batches; calls take turns on sets of operands
  that are together four times as large as the cache. What is bound by memory is held against the
  copy: bytes that must move at the least (each input read once, each output written once) over time.
  Products and attention are held against the product. Attention counts what causal masks leave: two
  products forward, five backward. Aim: 80 % of the copy.
- Training: one rank, bf16 weights, fp32 masters, gradients and moments; one micro-batch a step; ids as
  frequent as words are; each case a process. Three steps of warm-up, then the median of twelve, from
  return to return. GPT-2 takes the largest batch that fits, Llama 3 8B as many of its 32 layers as fit
  with all optimizer state (both recomputations the same number, so that they compare).
- Model FLOP: six a weight that takes part in a product and token, and causal attention
  (`model/flops.h`); recomputation is not counted.
- Peak: bytes that we allocated, the room in which products are timed at their first use included,
  beside those planned, which do not know that room. Grown: what was allocated after the first step;
  anything but 0 is a failure.
- PyTorch: `tests/bench/pytorch_train.py`, the same model, batch and step: `torch.compile` of the whole
  model, fp32 weights under bf16 autocast, fused AdamW, `scaled_dot_product_attention`. What it
  recomputes is its compiler's choice, or whole blocks where memory is short; where even that does not
  fit, fewer layers, whose FLOP are counted then.
- `GPU_NOTES.md` says what was found on a card and changed for it; `gpu_h100.jsonl` is what these tables
  were made of.
- Registers, spills and shared memory of each kernel need no GPU: `tests/bench/kernel_resources.sh`.

## Training

On paper: the arithmetic at the data sheet's rate, and after it AdamW's 30 bytes a parameter (gradient,
moments and master read, moments, master and weight written), since no weight may change before the norm
of all gradients is known. What else moves hides behind products. Layers and batch are those planned to
fit into nineteen twentieths of the memory.

TEXT
  floors bench_gpu_training
  printf '\nMeasured:\n\n'
  training_results
  cat <<'TEXT'

## Kernels

On paper: the larger of bytes over the memory's rate and FLOP over the products' rate. `8B` is one
sequence of 8,192 tokens in Llama 3 8B, `1.5B` sixteen of 1,024 in GPT-2 1.5B, `64 experts` 8,192 tokens
in OLMoE-1B-7B, whose experts are asked for alike. Share: of the copy where bytes bound, else of the
product.

TEXT
  if ((${#files[@]} > 0)); then ceilings; else printf 'Not measured yet: no GPU was at hand.\n\n'; fi
  kernels_beside_floors
} >"$out.new"
mv "$out.new" "$out"
echo "table      $out"
