# Pages and the journal.


rule render_report:
    input:
        decision=lambda w: decision_of(w.experiment),
        metrics=lambda w: decision_of(w.experiment).replace(
            "decision.json", "metrics.json"
        ),
        gslrm=converged_gslrm,
    output:
        page=f"{RESULTS}/experiments/{{experiment}}/report/index.html",
    log:
        f"{RESULTS}/logs/render_report/{{experiment}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/render_report/{{experiment}}.tsv"
    conda:
        "../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=15,
    params:
        settings=lambda w: settings(experiment_of(w.experiment)),
        gslrm=lambda w, input: (
            f"--gslrm '{Path(input.gslrm[0]).parent}'" if input.gslrm else ""
        ),
    message:
        "Writing the page of {wildcards.experiment}."
    shell:
        "mvfl report --name {wildcards.experiment} --settings {params.settings:q} --decision {input.decision:q}"
        " {params.gslrm} --out {output.page:q} --log {log:q}"


rule write_journal:
    input:
        decisions=visited_decisions,
    output:
        table=f"{RESULTS}/journal.csv",
        page=f"{RESULTS}/journal.md",
    log:
        f"{RESULTS}/logs/write_journal.log",
    benchmark:
        f"{RESULTS}/benchmarks/write_journal.tsv"
    conda:
        "../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        cases=json.dumps(CONFIG.cases, sort_keys=True),
    message:
        "Writing the journal of {input.decisions}."
    shell:
        "mvfl journal --cases {params.cases:q} --table {output.table:q} --page {output.page:q} --log {log:q}"
        " {input.decisions:q}"


# Ends the run with a non-zero status when no experiment is left; its output is never made.
rule report_exhausted:
    input:
        journal=f"{RESULTS}/journal.md",
        pages=lambda w: [
            report_of(name) for name, _ in follow(CONFIG, decided_case).visited
        ],
    output:
        f"{RESULTS}/exhausted",
    log:
        f"{RESULTS}/logs/report_exhausted.log",
    benchmark:
        f"{RESULTS}/benchmarks/report_exhausted.tsv"
    conda:
        "../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=500,
        runtime=5,
    message:
        "No experiment converged and none is left to try; everything is kept, see {input.journal}."
    shell:
        "echo 'No experiment converged and none is left to try; see {input.journal}.' | tee {log:q} >&2; exit 1"
