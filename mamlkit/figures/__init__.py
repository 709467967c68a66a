"""The figures of the notebooks, a module for each; what several share is in `charts`, the look of all in `theme`."""

from importlib.util import find_spec

import lazy_loader

from mamlkit.extras import extra

with extra("figures"):  # said at once; the modules themselves load when one of their figures is touched
    if find_spec("seaborn") is None:
        raise ModuleNotFoundError(name="seaborn")

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "theme": ["theme"],
        "charts": ["adaptation_curves", "adapted_functions"],
        "map": ["one_way_through", "slopes", "three_starts", "two_minima"],
        "tasks": ["gallery", "mean_square_in_parts", "pooled_average"],
        "support_and_query": ["losses_while_fitting", "support_against_query"],
        "inner_adaptation": ["limit_of_alpha", "loss_map", "random_start", "share_left"],
        "without_meta_learning": ["average_wave", "longer_training", "step_size_choice"],
        "meta_gradient": ["finite_difference_gap", "heat_maps"],
        "meta_update": ["learning_curve", "place_among_seeds"],
        "first_and_second_order": [
            "Progress",
            "angles",
            "angles_after_training",
            "cost_of_inner_steps",
            "memory_of_inner_steps",
            "two_orders",
        ],
        "which_data_judges": [
            "function_moves",
            "gains",
            "outer_loss_by_reading",
            "reported_against_examined",
            "trained_longer",
        ],
        "stress": ["Condition", "conditions", "curvature_of_starts", "errors_by_width", "stress_map", "training_map"],
        "images": [
            "accuracy_curves",
            "deals",
            "episodes",
            "layers_moved",
            "norm_dial",
            "paired_accuracy",
            "six_curves",
            "yardstick",
        ],
        "bug_museum": ["Damage", "damage", "wrong_derivatives"],
        "cost": ["peak_memory", "work_and_calls"],
        "across_seeds": ["claims_by_seed", "coverage", "effects", "numbers_needed", "paired_seeds", "two_intervals"],
    },
)
