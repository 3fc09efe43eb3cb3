# Pages and the journal.


rule render_report:
    input:
        unpack(ASKED.inputs("report")),
    output:
        **shown(
            {"page": str(LAYOUT.report("{experiment}"))},
            "{experiment}",
            page=("page", "page"),
        ),
    log:
        LAYOUT.log("render_report", "{experiment}"),
    benchmark:
        LAYOUT.benchmark("render_report", "{experiment}")
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=2000,
        runtime=15,
    params:
        settings=lambda w: PLAN.experiment(w.experiment).model_dump_json(),
        job=ASKED.job("report"),
    message:
        "Writing the page of {wildcards.experiment}."
    shell:
        "mvfl report --job {params.job:q} --log {log:q}"


rule write_journal:
    input:
        decisions=lambda w: [
            str(d) for d in PLAN.journal(PLAN.route(decided_case)).decisions
        ],
    output:
        **shown(
            {"journal": str(LAYOUT.journal)},
            "all",
            journal=("journal", "verdicts in order"),
        ),
        page=str(LAYOUT.journal.with_suffix(".md")),
    log:
        LAYOUT.log("write_journal"),
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        cases=sorted(CONFIG.cases.items()),
        decisions=lambda w: [
            str(d) for d in PLAN.journal(PLAN.route(decided_case)).decisions
        ],
        job=lambda w, input: PLAN.journal(PLAN.route(decided_case)).model_dump_json(),
    message:
        "Writing the journal of {input.decisions}."
    shell:
        "mvfl journal --job {params.job:q} --log {log:q}"


# Several experiments side by side: those judged so far, or those of the sweep.
rule compare_experiments:
    input:
        unpack(lambda w: ASKED.inputs("compare")(w) if w.group == "sweep" else {}),
    output:
        **shown(
            LAYOUT.comparison("{group}").declared(),
            "all",
            page=("compare", "comparison"),
        ),
    log:
        LAYOUT.log("compare_experiments", "{group}"),
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=2000,
        runtime=5,
    params:
        decisive=ASKED.decisive("compare"),
        seen=lambda w: PLAN.judged_mark(),
        job=ASKED.job("compare"),
    message:
        "Comparing the experiments ({wildcards.group})."
    shell:
        "mvfl compare --job {params.job:q} --log {log:q}"


# Ends the run with a non-zero status when no experiment is left; its output is never made.
rule report_exhausted:
    input:
        journal=str(LAYOUT.journal.with_suffix(".md")),
        pages=lambda w: [
            str(LAYOUT.report(name)) for name, _ in PLAN.route(decided_case).visited
        ],
    output:
        str(LAYOUT.exhausted),
    log:
        LAYOUT.log("report_exhausted"),
    retries: 0
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=500,
        runtime=5,
    params:
        ending=lambda w, input: ending(CONFIG, PLAN.route(decided_case)),
    message:
        "The end of the way; everything is kept, see {input.journal}."
    shell:
        "echo {params.ending:q} See {input.journal:q}. | tee {log:q} >&2; exit 1"
