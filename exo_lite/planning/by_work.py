"""The strategy `by_work`: stages that take about as long, on machines that are about as fast.

A pipeline is as fast as its slowest stage. Each token takes a stage what its layers weigh, and each token of an answer
takes the last stage what the output head weighs, in a model of many words and few layers as much as several layers.
Tokens of prompts need no output head.
"""

from __future__ import annotations

import heapq

from exo_lite.planning.stage_order import StageOrder

_ANSWER_SHARE = 0.5
"""The share of answer tokens among all tokens in the pipeline."""


def split_by_work(order: StageOrder, n_layers: int, *, layer_bytes: int, lm_head_bytes: int) -> list[int]:
    """Layers of each stage: at least one, never more than fit, the slowest stage as fast as can be.

    layer_bytes, lm_head_bytes: their weights. Needs an order that carries every layer.
    """
    shares = [1] * len(order)
    last = len(order) - 1

    def with_one_more(index: int) -> tuple[float, int]:
        return (shares[index] + 1) * layer_bytes + (_ANSWER_SHARE * lm_head_bytes if index == last else 0.0), index

    open_stages = [with_one_more(index) for index, stage in enumerate(order) if stage.capacity > 1]
    heapq.heapify(open_stages)
    for _ in range(n_layers - len(order)):
        _, index = open_stages[0]
        shares[index] += 1
        if shares[index] < order[index].capacity:
            heapq.heapreplace(open_stages, with_one_more(index))
        else:
            heapq.heappop(open_stages)
    return shares
