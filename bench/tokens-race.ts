// Lets several subjects take turns, each in a process of its own: a ratio is taken between two turns of the same round.
import { parseArgs } from 'node:util'
import { type Program, type Sample, start } from './programs.ts'
import { quantile } from './tables.ts'

export interface Flags {
  readonly processes: number
  readonly rounds: number
  readonly ms: number
  /** Names of subjects. */
  readonly only: readonly string[] | undefined
  /** Names of parts of the bench. */
  readonly parts: readonly string[] | undefined
  /** What the name of a text has in it. */
  readonly texts: string
}

export function readFlags(): Flags {
  const { values } = parseArgs({
    options: {
      processes: { type: 'string', default: '2' },
      rounds: { type: 'string', default: '4' },
      ms: { type: 'string', default: '100' },
      only: { type: 'string' },
      parts: { type: 'string' },
      texts: { type: 'string', default: '' }
    }
  })
  const [processes, rounds, ms] = [Number(values.processes), Number(values.rounds), Number(values.ms)]
  if (!(ms >= 1 && rounds >= 1 && processes >= 1)) throw new TypeError('--ms, --rounds and --processes take numbers from 1 up')
  return { processes, rounds, ms, only: values.only?.split(','), parts: values.parts?.split(','), texts: values.texts }
}

/** Of one subject: its samples, in the order of the rounds, and what its processes said first. */
export interface Taken {
  readonly samples: Sample[]
  readonly hellos: unknown[]
}

/** Subjects in the order in which they take their turns, and in the reverse one in every second round. */
export async function race(
  file: string,
  subjects: readonly string[],
  what: string,
  { processes, rounds, ms }: Flags
): Promise<ReadonlyMap<string, Taken>> {
  const taken = new Map<string, Taken>(subjects.map((name) => [name, { samples: [], hellos: [] }]))
  for (let fresh = 0; fresh < processes; fresh++) {
    await using stack = new AsyncDisposableStack()
    const programs = await Promise.all(
      subjects.map(async (name) => ({ name, program: stack.use(await start(file, [name, what])) }))
    )
    for (const { name, program } of programs) taken.get(name)?.hellos.push(program.hello)
    await Promise.all(programs.map(({ program }) => program.ask({ concurrency: 1, ms: 3 * ms })))
    for (let round = 0; round < rounds; round++) {
      for (const { name, program } of round % 2 === 0 ? programs : programs.toReversed()) {
        taken.get(name)?.samples.push(await turn(program, ms))
      }
    }
  }
  return taken
}

const turn = (program: Program, ms: number): Promise<Sample> => program.ask({ concurrency: 1, ms })

export const usEach = ({ seconds, units }: Sample): number => (seconds * 1e6) / units

/** How many times as fast as the base, round by round. */
export function timesAsFast(subject: Taken, base: Taken): readonly number[] {
  return subject.samples.map((sample, index) => usEach(base.samples[index] as Sample) / usEach(sample))
}

/** Judged by the median; a quartile on the other side of the bound is told, for another run might say the opposite. */
export function judge(
  name: string,
  values: readonly number[],
  {
    atLeast = Number.NEGATIVE_INFINITY,
    atMost = Number.POSITIVE_INFINITY
  }: { readonly atLeast?: number; readonly atMost?: number }
): string {
  const [low, middle, high] = [0.25, 0.5, 0.75].map((share) => {
    const value = quantile(values, share)
    return value >= atLeast && value <= atMost
  })
  const bound = atMost === Number.POSITIVE_INFINITY ? `at least ${atLeast}` : `at most ${atMost}`
  return `${name} ${bound}: ${middle ? 'met' : 'missed'}${low === high ? '' : ' within the noise'}`
}

/** Three digits that count. */
export const digits = (value: number): string => `${Number(value.toPrecision(3))}`

/** The median, with its quartiles where they differ in what is shown. */
export function spread(values: readonly number[]): string {
  const [low, middle, high] = [0.25, 0.5, 0.75].map((share) => digits(quantile(values, share)))
  return low === high ? `${middle}` : `${middle} (${low} to ${high})`
}
