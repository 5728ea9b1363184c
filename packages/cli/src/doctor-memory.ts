import { sleep } from '@millrace/core'
import { newQuestion, type Question, shortTokens } from './doctor-answer.ts'
import type { Gateway } from './doctor-gateway.ts'
import { TooSlow } from './doctor-link.ts'
import type { Metrics } from './doctor-prometheus.ts'
import { failed, passed, plural, type Verdict } from './doctor-verdict.ts'

/** Of the body that is sent again and again, in bytes; dashes, for they are few tokens. */
export const bodyBytes: number = 32 * 1024
/** Bytes a call may leave behind: a gateway that kept each body would leave four times as many. */
export const boundBytes: number = bodyBytes / 4
export const leastRounds = 3
/** Rounds that are judged, and need a collection each. */
export const lateRounds: number = leastRounds - 1
const mostRounds = 7
export const callsOfRound = 400
const workers = 8
/** Bodies that make the collector run, at most so many; half of them mostly do. */
export const garbageOfRound = 150
export const garbageBytes: number = 450 * 1024

/** What stood in memory at the end of a round. */
export interface MemoryFigures {
  /** Least bytes seen in each round, answers in the cache taken off; undefined without a gauge. */
  readonly floors: readonly number[] | undefined
  readonly callsOfRound: number
  /** Calls under way when all were answered, and nobody began another. */
  readonly running: number
  /** Whether the gauge has moved at all. */
  readonly moved: boolean
}

/**
 * Rounds of a plain call, a stream, one that is left, and many hits of one large question, which cost nothing and make a
 * leak large. The heap is read meanwhile: the least of a round is what collections have left over. It takes three quarters
 * of `budgetMs` at most, and judges by the rounds of that time.
 *
 * @throws {TooSlow} where they are too few
 */
export async function measureMemory(gateway: Gateway, budgetMs: number): Promise<MemoryFigures> {
  const endsAt = performance.now() + 0.75 * budgetMs
  const heap = createHeapReader(gateway)
  await heap.read()
  if (heap.lowest() === undefined) return { floors: undefined, callsOfRound: 0, running: 0, moved: false }
  const question = largeQuestion()
  await gateway.ask(question)
  // Without a cache each of them would be paid for: bodies that are refused are as large.
  const isKept = (await gateway.ask(question)).cache === 'hit'
  const small = brokenBody(bodyBytes)
  const large = brokenBody(garbageBytes)
  const inTime = (): boolean => performance.now() < endsAt
  const repeat = async (times: number, work: () => Promise<unknown>, isWanted: () => boolean): Promise<void> => {
    let left = times
    const worker = async (): Promise<void> => {
      while (left-- > 0 && isWanted()) await work()
    }
    await Promise.all(Array.from({ length: workers }, worker))
  }

  const floors: number[] = []
  while (inTime() && (floors.length < leastRounds || (floors.length < mostRounds && isRising(floors) && !isVast(floors)))) {
    heap.begin()
    await heap.watch(async () => {
      await Promise.all([
        gateway.ask(newQuestion('Name a tree.', shortTokens)),
        gateway.stream(newQuestion('Name a bird.', shortTokens)),
        gateway.leave(newQuestion('Tell the story of a fish.')),
        repeat(callsOfRound, () => (isKept ? gateway.ask(question) : gateway.sendBroken(small)), inTime)
      ])
      if (floors.length < leastRounds - lateRounds) return
      // Garbage that stands for thousands of calls looks like a leak.
      heap.beginCollection()
      await repeat(
        garbageOfRound,
        () => gateway.sendBroken(large),
        () => inTime() && !heap.wasCollected()
      )
    })
    const lowest = heap.lowest()
    if (inTime() && lowest !== undefined) floors.push(lowest)
  }
  if (floors.length < leastRounds) throw new TooSlow()
  const atRest = await gateway.counts()
  const { running, calls } = await gateway.settled((counts) => counts.running === 0)
  return { floors, callsOfRound: callsOfRound + 3, running: calls === atRest.calls ? running : 0, moved: heap.moved() }
}

/** The least bytes of the heap since `begin`, answers in the cache taken off. */
interface HeapReader {
  begin(): void
  read(): Promise<void>
  /** Reads while `work` goes on, and once after it. */
  watch(work: () => Promise<void>): Promise<void>
  /** Undefined without a gauge. */
  lowest(): number | undefined
  /** What a collection leaves over from now on is what counts. */
  beginCollection(): void
  /** Whether the collector has run since; never known of a gateway that does not tell. */
  wasCollected(): boolean
  moved(): boolean
}

function createHeapReader(gateway: Gateway): HeapReader {
  const seen = new Set<number>()
  let lowest: number | undefined
  let collected: number | undefined
  let collectedBefore: number | undefined

  async function read(): Promise<void> {
    const [metrics, { cacheBytes }] = await Promise.all([gateway.metrics(), gateway.counts()])
    const used = heapOf(metrics)
    if (used === undefined) return
    seen.add(used)
    const now = metrics.sum('millrace_memory_heap_after_gc') ?? metrics.sum('millrace_memory_heap_after_gc_bytes')
    const least = now !== undefined && collected !== undefined && now !== collected ? Math.min(now, used) : used
    collected = now
    lowest = Math.min(lowest ?? Number.POSITIVE_INFINITY, least - cacheBytes)
  }

  return {
    read,
    begin() {
      lowest = undefined
    },
    async watch(work) {
      const over = new AbortController()
      const reading = async (): Promise<void> => {
        while (!over.signal.aborted) {
          await read()
          await sleep(50)
        }
      }
      await Promise.all([work().finally(() => over.abort()), reading()])
      await read()
    },
    lowest: () => lowest,
    beginCollection() {
      collectedBefore = collected
    },
    wasCollected: () => collected !== collectedBefore,
    moved: () => seen.size > 1
  }
}

/** Bytes of the heap in use: as OpenTelemetry's conventions, Node's older ones and prom-client call it. */
export function heapOf(metrics: Metrics): number | undefined {
  for (const name of ['v8js_memory_heap_used', 'nodejs_heap_size_used', 'nodejs_memory_heap_used', 'process_heap_used']) {
    const used = metrics.sum(name) ?? metrics.sum(`${name}_bytes`)
    if (used !== undefined) return used
  }
  return undefined
}

/** Bytes a round, by the median of the slopes between all pairs of the later half (Theil and Sen): one odd round moves it little. */
export function slopeOf(floors: readonly number[]): number {
  const later = floors.slice(Math.floor(floors.length / 2))
  const slopes = later.flatMap((low, at) => later.slice(at + 1).map((high, gap) => (high - low) / (gap + 1)))
  slopes.sort((a, b) => a - b)
  const middle = Math.floor(slopes.length / 2)
  if (slopes.length === 0) return 0
  return slopes.length % 2 === 1 ? (slopes[middle] as number) : ((slopes[middle - 1] as number) + (slopes[middle] as number)) / 2
}

function isRising(floors: readonly number[]): boolean {
  return slopeOf(floors) > boundBytes * (callsOfRound + 3)
}

export function judgeMemory({ floors, callsOfRound: calls, running, moved }: MemoryFigures): Verdict {
  if (floors === undefined) {
    return failed(
      'no figure',
      '/metrics has no gauge of the heap',
      'observe the heap as v8js.memory.heap.used (the sample gateway does in process-metrics.ts)'
    )
  }
  const perCall = slopeOf(floors) / calls
  const kept = Math.max(0, perCall / 1024).toFixed(1)
  const figure = `${kept} KB a call stayed (bound ${boundBytes / 1024}) over ${plural(floors.length * calls, 'call')}; heap ${megabytes(Math.min(...floors))} to ${megabytes(Math.max(...floors))}; ${plural(running, 'call')} under way at rest`
  if (!moved)
    return failed(
      figure,
      'the gauge of the heap stands still',
      'see that /metrics is read anew at each request and not cached on the way'
    )
  if (perCall > boundBytes) {
    return failed(
      figure,
      `the heap grew by ${kept} KB with each call, and went on`,
      'take two heap snapshots (node --heapsnapshot-signal=SIGUSR2) some minutes apart and compare what is kept'
    )
  }
  if (running > 0) {
    return failed(
      figure,
      `${plural(running, 'call')} still under way, though all were answered or left`,
      'see that calls end with their client: `running` in /v1/stats must come back to 0'
    )
  }
  return passed(figure)
}

const megabytes = (bytes: number): string => `${(bytes / 1024 / 1024).toFixed(0)} MB`

function largeQuestion(): Question {
  const { messages, maxTokens } = newQuestion('Reply with the word ready.')
  const before = [
    { role: 'user', content: '-'.repeat(bodyBytes) },
    { role: 'assistant', content: 'Noted.' }
  ] as const
  return { messages: [...before, ...messages], maxTokens }
}

/** So much more than at first that there is no doubt, and that a gateway may soon be out of memory. */
function isVast(floors: readonly number[]): boolean {
  return (floors.at(-1) ?? 0) - (floors[0] ?? 0) > 256 * 1024 * 1024
}

/** No JSON; a gateway takes a mebibyte. */
function brokenBody(bytes: number): string {
  return `"${'-'.repeat(bytes)}`
}
