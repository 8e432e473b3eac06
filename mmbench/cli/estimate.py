"""`mmbench estimate`: what the missing runs of models or of an experiment's file would cost."""

import typer

from mmbench.cli.requested import (
    ControlsOption,
    DatasetsOption,
    EpochsOption,
    FloorsOption,
    ModelsArgument,
    SeedsOption,
    SetOption,
    StudyOption,
    TunedOption,
    requested,
)
from mmbench.cli.run import DeviceOption
from mmbench.cli.state import State


def register(app: typer.Typer) -> None:
    app.command(epilog="Example: mmbench estimate hm4sr sasrec --dataset amazon-beauty --seeds 10")(estimate)


def estimate(
    ctx: typer.Context,
    models: ModelsArgument,
    dataset: DatasetsOption = None,
    seeds: SeedsOption = "1",
    set_: SetOption = None,
    tuned: TunedOption = False,
    study: StudyOption = None,
    epochs: EpochsOption = None,
    floors: FloorsOption = True,
    controls: ControlsOption = False,
    device: DeviceOption = "auto",
) -> None:
    """Time some steps of each model, and print the time, memory and disk that the missing runs need at most."""
    state: State = ctx.obj
    from mmbench.api.running import plan_cells
    from mmbench.cli.tables import print_table
    from mmbench.cli.watching import run_view, watchers
    from mmbench.fetch.files import size_text
    from mmbench.runs.estimate import estimate as costs_of
    from mmbench.runs.time_left import clock

    experiment = requested(
        ctx, models, datasets=dataset, seeds=seeds, sets=set_, tuned=tuned, study=study, epochs=epochs, floors=floors,
        controls=controls,
    )  # fmt: skip
    cells = plan_cells(
        **experiment.run_options, device=device, data_dir=state.data_dir, results_dir=state.results_dir,
        watchers=watchers(state, run_view(state)),
    )  # fmt: skip
    costs = list(costs_of(cells, device=device, say=lambda text: state.err.print(text, markup=False)))
    rows = [
        [
            cost.model, cost.dataset, f"{cost.n_runs} of {cost.n_runs + cost.n_finished}",
            f"{cost.epoch:.2f} s" if cost.epoch else "", str(cost.epochs or ""),
            clock(cost.seconds) if cost.epoch else "", f"{cost.n_parameters:,}" if cost.n_parameters else "",
        ]
        for cost in costs
    ]  # fmt: skip
    print_table(state, ["model", "data set", "missing", "epoch", "epochs", "at most", "parameters"], rows)
    for cost in costs:
        if cost.alone is not None:
            state.out.print(
                f"{cost.model} on {cost.dataset}: while it was timed, other programs had the processor for "
                f"{cost.waited:.0%} of the time; without them an epoch takes about {cost.alone:.2f} s"
            )
    total = clock(sum(cost.seconds for cost in costs))
    peaks = {name: max(cost.memory.get(name, 0) for cost in costs) for cost in costs for name in cost.memory}
    memory = (
        ", ".join(f"{name} {size_text(n_bytes)}" for name, n_bytes in sorted(peaks.items())) or "not measured"
    )
    disk = size_text(sum(cost.disk for cost in costs))
    at_work = size_text(max((cost.disk_at_work for cost in costs), default=0))
    state.out.print(
        f"in all at most {total}, run after run on this machine; early stopping usually ends a run sooner"
    )
    state.out.print(f"memory: {memory}; disk: {disk} of weights, and {at_work} more while a run is computed")
