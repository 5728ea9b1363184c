import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { PrometheusServer } from '@millrace/testkit'

/**
 * Values of series in promtool's notation, by their names, at each scrape: `0+3x20` is 0 and twenty steps of 3, `_x5` is
 * five times nothing.
 */
export type Scrapes = Readonly<Record<string, string>>

/** What an expression gives at a time such as `12m`: the value of each set of labels, such as `{job="a"}`. */
export interface Asked {
  readonly at: string
  readonly expr: string
  readonly gives: Readonly<Record<string, number>>
}

/** The alerts that fire at a time such as `12m`, in the order of the alphabet. */
export interface Fires {
  readonly at: string
  readonly fires: readonly string[]
}

export interface RuleCase {
  /** Between two scrapes, and two evaluations of the rules. @default '1m' */
  readonly every?: string | undefined
  readonly series: Scrapes
  readonly expect: readonly (Asked | Fires)[]
}

/** What promtool writes; rejects with that when one of them is not as expected. */
export async function testRules(
  server: PrometheusServer,
  ruleFile: string,
  cases: Readonly<Record<string, RuleCase>>
): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'millrace-rule-tests-'))
  try {
    const file = join(folder, 'tests.yaml')
    // JSON is YAML.
    await writeFile(file, JSON.stringify({ rule_files: [ruleFile], evaluation_interval: '1m', tests: testsOf(cases) }))
    return await server.testRules(file)
  } finally {
    await rm(folder, { recursive: true })
  }
}

function testsOf(cases: Readonly<Record<string, RuleCase>>): object[] {
  return Object.entries(cases).map(([name, { every = '1m', series, expect }]) => ({
    name,
    interval: every,
    input_series: Object.entries(series).map(([one, values]) => ({ series: one, values })),
    promql_expr_test: expect.map((one) => {
      const { at, expr, gives } = 'fires' in one ? firing(one) : one
      const samples = Object.entries(gives).map(([labels, value]) => ({ labels, value }))
      return { expr, eval_time: at, exp_samples: samples }
    })
  }))
}

function firing({ at, fires }: Fires): Asked {
  const gives = Object.fromEntries(fires.map((name) => [`{alertname="${name}"}`, 1]))
  return { at, expr: 'count by (alertname) (ALERTS{alertstate="firing"})', gives }
}
