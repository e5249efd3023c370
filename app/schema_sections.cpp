// The sections of the deck in order, and the rules that hold over several keys.
#include "app/schema.h"

namespace pg::app {

const std::vector<SchemaSection>& deck_sections() {
  static const std::vector<SchemaSection> sections = {
      {"run", "the run as a whole",
       "replica_check compares dense weights over dp*ep*cp, experts over dp*cp, what tp does not "
       "cut\n"
       "over tp, and a tied table over both ends of the pipeline; also before each save. What "
       "ZeRO\n"
       "keeps in pieces has no copy: exact values from grid.zero = 1 on, all weights with 3."},
      {"grid", "how the ranks of the job are arranged",
       "dp*tp*pp*ep*cp is the number of ranks. The same deck and seed give the same loss curve on\n"
       "every legal grid, up to the order of sums."},
      {"pipeline", "the pipeline's schedule", ""},
      {"context", "attention over a split sequence",
       "grid.cp ranks share a sequence; with grid.cp = 1 the method is of no account.\n"
       "  ring, allgather  seq is a multiple of 2 cp: a rank has one chunk from the front and its\n"
       "                   mirror image from the back, so that causal attention is the same work\n"
       "                   for all\n"
       "  ulysses          seq and heads / tp are multiples of cp; kv_heads / tp is a multiple or "
       "a\n"
       "                   divisor of it"},
      {"recompute", "activations computed again instead of kept", ""},
      {"model", "the transformer's shape",
       "heads is a multiple of kv_heads; without head_dim, hidden is a multiple of heads."},
      {"moe", "mixture of experts",
       "Routing is defined for one sequence of T tokens, E experts and k = top_k, so that neither\n"
       "grid nor micro-batch changes it. With f_e the tokens that chose e over k T, P_e the mean\n"
       "probability of e, and lse the log-sum-exp of a token's router logits, what is minimised\n"
       "gains, as a mean over sequences and a sum over blocks,\n"
       "  aux_loss * E * sum_e f_e P_e  +  z_loss * mean over tokens of lse^2\n"
       "bias_update alone looks at the whole batch, after the step. metrics.jsonl has the sum as\n"
       "aux_loss, apart from loss, and in moe, by block: balance (E sum_e f_e P_e; 1 when even), "
       "z\n"
       "(mean of lse^2), load (tokens that asked for each expert), and the share that was "
       "dropped.\n"
       "grid.ep spreads the experts over ranks."},
      {"data", "text, tokenizer and token files", "Relative paths start at the working directory."},
      {"train", "length and batches of the training",
       "global_batch is a multiple of dp*ep*micro_batch; seq is at most model.max_seq.\n"
       "A step gets no update, on any rank, when its loss or gradient norm is not finite, or\n"
       "  loss > mean + spike_sigma * max(deviation, |mean| / 256)\n"
       "over the losses of the last 100 updates (fewer at first; from 20 on). It still counts: "
       "its\n"
       "number, samples and learning rate are used up. Saves that fall due meanwhile wait for the\n"
       "next update; a stop saves all the same."},
      {"optimizer", "the update of the weights", ""},
      {"schedule", "the learning rate",
       "lr(t) at step t, counted from 1, with W = warmup, S = train.steps, D = decay:\n"
       "  t <= W     lr * t / W, whatever the kind; after it\n"
       "  cosine     min_lr + (lr - min_lr) * (1 + cos(pi * (t - W) / (S - W))) / 2\n"
       "  linear     lr + (min_lr - lr) * (t - W) / (S - W)\n"
       "  constant   lr\n"
       "  wsd        t <= S - D: lr; after it lr + (min_lr - lr) * (t - (S - D)) / D"},
      {"checkpoint", "saving and going on", ""},
      {"log", "what is printed", ""},
      {"generate", "text from a trained model", ""},
      {"plan", "the cluster that the planner plans for", ""},
  };
  return sections;
}

}  // namespace pg::app
