"""Figures, claims and records: what a notebook shows. Nothing here trains."""

from mamlkit.extras import extra

with extra("figures"):
    from mamlkit.figures.experiments import (
        Condition,
        conditions,
        curvature_of_starts,
        errors_by_width,
        function_moves,
        gains,
        judge_parabolas,
        reported_against_examined,
        stress_map,
        training_map,
    )
    from mamlkit.figures.gradients import (
        cosines,
        cosines_after_training,
        finite_difference_gap,
        heat_maps,
        limit_of_alpha,
        loss_map,
        random_start,
        share_left,
        two_orders,
        work,
    )
    from mamlkit.figures.images import accuracy_curves, episodes, layers_moved, norm_dial, paired_accuracy
    from mamlkit.figures.seeds import (
        claims_by_seed,
        coverage,
        effects,
        numbers_needed,
        paired_seeds,
        two_intervals,
    )
    from mamlkit.figures.tasks import (
        fitting,
        gallery,
        one_way_through,
        pooled_average,
        shares,
        slopes,
        support_against_query,
    )
    from mamlkit.figures.theme import theme
    from mamlkit.figures.training import (
        adaptation_curves,
        average_wave,
        fits,
        learning_curve,
        longer_training,
        step_size_choice,
    )
    from mamlkit.ledger import ClaimError, claim, record, show

__all__ = [
    "ClaimError",
    "Condition",
    "accuracy_curves",
    "adaptation_curves",
    "average_wave",
    "claim",
    "claims_by_seed",
    "conditions",
    "cosines",
    "cosines_after_training",
    "coverage",
    "curvature_of_starts",
    "effects",
    "episodes",
    "errors_by_width",
    "finite_difference_gap",
    "fits",
    "fitting",
    "function_moves",
    "gains",
    "gallery",
    "heat_maps",
    "judge_parabolas",
    "layers_moved",
    "learning_curve",
    "limit_of_alpha",
    "longer_training",
    "loss_map",
    "norm_dial",
    "numbers_needed",
    "one_way_through",
    "paired_accuracy",
    "paired_seeds",
    "pooled_average",
    "random_start",
    "record",
    "reported_against_examined",
    "share_left",
    "shares",
    "show",
    "slopes",
    "step_size_choice",
    "stress_map",
    "support_against_query",
    "theme",
    "training_map",
    "two_intervals",
    "two_orders",
    "work",
]
