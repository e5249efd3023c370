#pragma once
namespace pg::model {
class MatmulEngine {};
}  // namespace pg::model
