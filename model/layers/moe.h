// A feed-forward layer of experts (Shazeer et al. 2017): each token goes to the experts its router
// chose, wherever in the ep group they are, and gets back the sum of their outputs by its gates;
// shared experts see every token.
//
// Experts are cut over tp as a feed-forward layer is. Every tp rank sends all rows, so an exchange
// over ep carries tp times the rows that are there.
#pragma once

#include <optional>
#include <string>

#include "model/layers/experts.h"
#include "model/layers/mlp.h"
#include "model/layers/router.h"

namespace pg::model {

class Moe {
 public:
  Moe(const ModelConfig& config, const ParamLayout& layout, std::int64_t block);

  struct Saved {
    Router::Saved routing;
    TensorView rows;      // int32 [N,E]: where each pair (token, expert) stands among those sent
    ExpertRoutes routes;  // of the rows between the ranks
    TensorView arrived;   // [arrived,C]: the inputs of this rank's experts
    Experts::Saved experts;
    TensorView returned;  // [sent,C]: their outputs, back where the tokens are
    Mlp::Saved shared;
  };

  // y[rows,C] from x[rows,C]. Collective over ep, cp and tp.
  Saved forward(const LayerContext& ctx, TensorView y, TensorView x) const;
  // What forward would save, without y: enough for backward. Collective likewise.
  Saved remake(const LayerContext& ctx, TensorView x) const;
  // dx[rows,C] from dy[rows,C]. Collective likewise.
  void backward(const LayerContext& ctx, TensorView dx, TensorView dy, TensorView x,
                const Saved& saved) const;

 private:
  // Everything up to `returned`, from all rows of x.
  Saved run(const LayerContext& ctx, TensorView x) const;

  Router router_;
  Experts experts_;
  std::optional<Mlp> shared_;
};

}  // namespace pg::model
