// Compares subjects: each in a process of its own, against one server in another, taking turns inside every round.
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { parseArgs } from 'node:util'

/** One turn of one subject, as the parent asks for it. */
export interface Turn {
  readonly concurrency: number
  readonly ms: number
}

/** What a turn came to. */
export interface Sample {
  /** Calls, or chunks of streams. */
  readonly units: number
  /** User and system time of the whole child process. */
  readonly cpuUs: number
  readonly seconds: number
  /** Median time from the call to its first text; absent where nothing is streamed. */
  readonly firstMs?: number | undefined
}

export interface Comparison {
  /** The program of the children: it is given a subject's name and the server's origin. */
  readonly program: string
  /** The first is what the others are compared with. */
  readonly subjects: readonly string[]
  readonly concurrencies: readonly number[]
}

/** Samples by concurrency, then subject, then round. */
export type Results = ReadonlyMap<number, ReadonlyMap<string, readonly Sample[]>>

/** `--rounds=5 --ms=300 --only=name,name`; `--only` keeps the base. */
function settings({ subjects }: Comparison): { rounds: number; ms: number; subjects: readonly string[] } {
  const { values } = parseArgs({
    options: {
      rounds: { type: 'string', default: '5' },
      ms: { type: 'string', default: '300' },
      only: { type: 'string' }
    }
  })
  const wanted = values.only?.split(',') ?? subjects
  const unknown = wanted.find((name) => !subjects.includes(name))
  if (unknown !== undefined) throw new TypeError(`--only: ${unknown} is unknown; the subjects are ${subjects.join(', ')}`)
  const [rounds, ms] = [Number(values.rounds), Number(values.ms)]
  if (!(rounds >= 1) || !(ms >= 1)) throw new TypeError('--rounds and --ms must be numbers of at least 1')
  return { rounds, ms, subjects: subjects.filter((name, index) => index === 0 || wanted.includes(name)) }
}

export async function compare(comparison: Comparison): Promise<Results> {
  const { rounds, ms, subjects } = settings(comparison)
  await using server = await start('server-main.ts', [])
  const origin = `http://127.0.0.1:${String(server.hello)}`
  await using children = new AsyncDisposableStack()
  const running = new Map<string, Program>()
  for (const name of subjects) running.set(name, children.use(await start(comparison.program, [name, origin])))

  const results = new Map<number, Map<string, Sample[]>>()
  for (const concurrency of comparison.concurrencies) {
    const samples = new Map<string, Sample[]>(subjects.map((name) => [name, []]))
    results.set(concurrency, samples)
    // Round 0 opens the sockets and lets the compiler see the code.
    for (let round = 0; round <= rounds; round++) {
      const order = round % 2 === 0 ? subjects : subjects.toReversed()
      for (const name of order) {
        const sample = await running.get(name)?.ask({ concurrency, ms })
        if (round > 0 && sample !== undefined) samples.get(name)?.push(sample)
      }
    }
  }
  return results
}

interface Program extends AsyncDisposable {
  /** The first thing it said: it is ready. */
  readonly hello: unknown
  ask(turn: Turn): Promise<Sample>
}

async function start(file: string, args: readonly string[]): Promise<Program> {
  const child = fork(new URL(file, import.meta.url), args, { execArgv: ['--conditions=@millrace/source'] })
  const hello = await answer(child, `${file} ${args.join(' ')}`)
  return {
    hello,
    ask(turn) {
      child.send(turn)
      return answer(child, `${file} ${args.join(' ')}`) as Promise<Sample>
    },
    async [Symbol.asyncDispose]() {
      if (child.exitCode !== null || child.signalCode !== null) return
      const exited = once(child, 'exit')
      child.disconnect()
      await exited
    }
  }
}

function answer(child: ChildProcess, name: string): Promise<unknown> {
  return new Promise((resolve, reject) => {
    const died = (code: number | null): void => reject(new Error(`${name} ended with code ${code} instead of an answer`))
    child.once('exit', died)
    child.once('message', (message) => {
      child.off('exit', died)
      resolve(message)
    })
  })
}

/** The median of `of(subject) / of(base)` over rounds: what drifts within a run drifts for both. */
export function ratio(samples: ReadonlyMap<string, readonly Sample[]>, name: string, of: (sample: Sample) => number): number {
  const base = [...samples.values()][0] ?? []
  return median((samples.get(name) ?? []).map((sample, round) => of(sample) / of(base[round] ?? sample)))
}

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b)
  const middle = sorted.length / 2
  const high = sorted[Math.floor(middle)] ?? Number.NaN
  return Number.isInteger(middle) ? ((sorted[middle - 1] ?? Number.NaN) + high) / 2 : high
}

/** A Markdown table, ready for `docs/benchmarks.md`. */
export function printTable(head: readonly string[], rows: readonly (readonly string[])[]): void {
  console.log(`| ${head.join(' | ')} |\n|${head.map((_, column) => (column === 0 ? '---' : '---:')).join('|')}|`)
  for (const row of rows) console.log(`| ${row.join(' | ')} |`)
}
