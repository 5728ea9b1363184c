import { execFile } from 'node:child_process'
import { writeFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'
import type { Program } from './debian-package.ts'
import { findPrometheusProgram, promtoolBeside } from './prometheus-program.ts'
import { launchServer } from './server-process.ts'

const run = promisify(execFile)

export interface PrometheusOptions {
  /** `host:port` each, scraped by http. @default [] */
  readonly targets?: readonly string[] | undefined
  /** @default '/metrics' */
  readonly path?: string | undefined
  /** Sent to the targets. @default none */
  readonly bearerToken?: string | undefined
  /** Also how long a scrape may take and how often rules are evaluated. @default 200 */
  readonly scrapeIntervalMs?: number | undefined
  /** Paths of files with rules. @default [] */
  readonly ruleFiles?: readonly string[] | undefined
}

export interface PrometheusSample {
  /** Labels; the series' name is `__name__`. */
  readonly metric: Readonly<Record<string, string>>
  readonly value: number
}

export interface PrometheusRule {
  readonly group: string
  readonly name: string
  readonly type: 'alerting' | 'recording'
  readonly query: string
  /** `unknown` until it was evaluated. */
  readonly health: 'ok' | 'err' | 'unknown'
  /** Empty when there was none. */
  readonly lastError: string
  /** Of an alert. */
  readonly state: 'inactive' | 'pending' | 'firing' | undefined
}

export interface PrometheusTarget {
  readonly url: string
  /** `unknown` until it was scraped. */
  readonly health: 'up' | 'down' | 'unknown'
  /** Empty when there was none. */
  readonly lastError: string
}

/** A Prometheus of the test's own on loopback; its data goes with it. */
export interface PrometheusServer extends AsyncDisposable {
  /** `http://127.0.0.1:PORT`; its web pages are not there. */
  readonly url: string
  readonly pid: number
  /**
   * The value of every series now; a scalar is one without labels.
   *
   * @throws {Error} with what Prometheus says about the query; for a range such as `up[1m]`
   */
  query(promql: string): Promise<readonly PrometheusSample[]>
  rules(): Promise<readonly PrometheusRule[]>
  targets(): Promise<readonly PrometheusTarget[]>
  /**
   * Checks a file of rules as `promtool check rules` does, and gives what it wrote.
   *
   * @throws {Error} with what is wrong in the file
   */
  checkRules(file: string): Promise<string>
  /**
   * Runs a file of unit tests of rules as `promtool test rules` does, and gives what it wrote.
   *
   * @throws {Error} with what the rules gave and what they should have given
   */
  testRules(file: string): Promise<string>
  /** Ends it at once, as a crash would. */
  kill(): Promise<void>
  /** Ends it in order, and kills it after 2 s. Safe after `kill`. */
  stop(): Promise<void>
}

/**
 * Starts a Prometheus, or says in one line why the tests that need it are skipped; unlike a missing Redis, a missing
 * Prometheus is a skip under CI too. It is ready in some 100 ms, but scrapes first after 5 s: so often it looks for targets.
 *
 * @throws {Error} with what it wrote, when there is one that does not start, such as for a malformed file of rules
 *
 * @example
 * const { server, skip } = await requirePrometheus({ targets: ['127.0.0.1:9464'] })
 * test.skipIf(skip)('answers the dashboard', async () => {
 *   console.log(await server?.query('sum(rate(http_requests_total[1m]))'))
 * })
 */
export async function requirePrometheus(
  options: PrometheusOptions = {}
): Promise<
  { readonly server: PrometheusServer; readonly skip?: undefined } | { readonly server?: undefined; readonly skip: string }
> {
  const config = configOf(options)
  let program: Program
  try {
    program = await findPrometheusProgram()
  } catch (error) {
    const skip = `tests that need Prometheus are skipped: ${error instanceof Error ? error.message : String(error)}`
    console.warn(skip)
    return { skip }
  }
  return { server: await launch(program, config) }
}

function configOf(options: PrometheusOptions): object {
  const { targets = [], path = '/metrics', bearerToken, scrapeIntervalMs = 200, ruleFiles = [] } = options
  if (!(Number.isInteger(scrapeIntervalMs) && scrapeIntervalMs > 0)) {
    throw new TypeError('scrapeIntervalMs must be a whole number above 0')
  }
  const interval = `${scrapeIntervalMs}ms`
  const job = {
    job_name: 'test',
    metrics_path: path,
    static_configs: [{ targets }],
    ...(bearerToken === undefined ? {} : { authorization: { type: 'Bearer', credentials: bearerToken } })
  }
  return {
    global: { scrape_interval: interval, scrape_timeout: interval, evaluation_interval: interval },
    rule_files: ruleFiles.map((file) => resolve(file)),
    scrape_configs: [job]
  }
}

type QueryData =
  | { readonly resultType: 'vector'; readonly result: readonly { readonly metric: Labels; readonly value: Value }[] }
  | { readonly resultType: 'scalar'; readonly result: Value }
  | { readonly resultType: 'matrix' | 'string' }
type Labels = Readonly<Record<string, string>>
/** When, in seconds, and how much. */
type Value = readonly [number, string]

interface RulesData {
  readonly groups: readonly {
    readonly name: string
    readonly rules: readonly (Omit<PrometheusRule, 'group' | 'lastError' | 'state'> & {
      readonly lastError?: string
      readonly state?: PrometheusRule['state']
    })[]
  }[]
}

interface TargetsData {
  readonly activeTargets: readonly (Omit<PrometheusTarget, 'url'> & { readonly scrapeUrl: string })[]
}

async function launch(program: Program, config: object): Promise<PrometheusServer> {
  const { child, match, kill, stop } = await launchServer(
    program,
    async (folder) => {
      const file = join(folder, 'prometheus.yml')
      // JSON is YAML.
      await writeFile(file, JSON.stringify(config))
      return [`--config.file=${file}`, `--storage.tsdb.path=${join(folder, 'data')}`, '--web.listen-address=127.0.0.1:0']
    },
    // It listens before it is ready, and what `/-/ready` says is written too.
    /^(?=[^]*Server is ready to receive web requests)[^]*msg="Listening on" address=(127\.0\.0\.1:\d+)/
  )
  const url = `http://${match[1]}`

  async function ask<T>(path: string, body?: URLSearchParams): Promise<T> {
    const response = await fetch(`${url}/api/v1/${path}`, body && { method: 'POST', body })
    const answer = (await response.json()) as { readonly data: T; readonly error?: string }
    if (answer.error !== undefined) throw new Error(`Prometheus: ${answer.error}`)
    return answer.data
  }

  async function promtool(verb: 'check' | 'test', file: string): Promise<string> {
    const { path, env } = promtoolBeside(program)
    try {
      return (await run(path, [verb, 'rules', file], { env, timeout: 30_000 })).stdout
    } catch (error) {
      const { stdout = '', stderr = '', message } = error as { stdout?: string; stderr?: string; message: string }
      // It writes that a test failed to the one, and what failed to the other.
      throw new Error(`${file}: ${`${stdout}${stderr}`.trim() || message}`, { cause: error })
    }
  }

  return {
    url,
    pid: child.pid as number,
    async query(promql) {
      const data = await ask<QueryData>('query', new URLSearchParams({ query: promql }))
      if (data.resultType === 'vector') return data.result.map(({ metric, value }) => ({ metric, value: numberOf(value) }))
      if (data.resultType === 'scalar') return [{ metric: {}, value: numberOf(data.result) }]
      throw new Error(`${promql} gives a ${data.resultType}, not one number a series`)
    },
    async rules() {
      const { groups } = await ask<RulesData>('rules')
      return groups.flatMap(({ name: group, rules }) =>
        rules.map(({ name, type, query, health, lastError = '', state }) => {
          return { group, name, type, query, health, lastError, state }
        })
      )
    },
    async targets() {
      const { activeTargets } = await ask<TargetsData>('targets')
      return activeTargets.map(({ scrapeUrl, health, lastError }) => ({ url: scrapeUrl, health, lastError }))
    },
    checkRules: (file) => promtool('check', file),
    testRules: (file) => promtool('test', file),
    kill,
    stop,
    [Symbol.asyncDispose]: stop
  }
}

/** Prometheus writes infinity as `+Inf` and `-Inf`. */
function numberOf([, text]: Value): number {
  return Number(text.replace('Inf', 'Infinity'))
}
