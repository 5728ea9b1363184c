import { setImmediate as nextTurn } from 'node:timers/promises'
import {
  annotate,
  type CallOptions,
  type ChatRequest,
  type Chunk,
  ChunkBatches,
  type Facts,
  hasEnded,
  isContent,
  isMillraceError,
  MillraceError,
  nextBatch
} from '@millrace/core'
import { modelOf } from './candidates.ts'
import type { Failure, Trial } from './cooling.ts'
import type { Choose, Rival } from './fallback-choice.ts'
import { type FallbackRules, failureOf, isLimited, toldMs } from './fallback-options.ts'
import { withShortWaits } from './short-waits.ts'

/** What all calls of a fallback share. */
export interface FallbackShared {
  readonly rules: FallbackRules
  readonly choose: Choose
  /** How many providers there are. */
  readonly size: number
  readonly counts: { calls: number; movedOn: number; exhausted: number }
}

/** One asking of one provider, up to its first content. */
interface Asking {
  readonly rival: Rival
  readonly trial: Trial
}

/** A source that never waits would let no timer run, and so no deadline: this often the event loop gets its turn. */
const silentReads = 32

/** One call. A class, for it is the hot path: what the first provider answers passes through. */
export class FallbackCall extends ChunkBatches {
  readonly #shared: FallbackShared
  readonly #request: ChatRequest
  readonly #options: CallOptions
  /** What the request calls its model; a request is checked further in, so it may be anything. */
  readonly #asked: string
  /** Who is asked, or has answered. */
  #source: AsyncIterator<Chunk, undefined> | undefined
  #asking: Asking | undefined
  #opening: Promise<readonly Chunk[] | undefined> | undefined
  #isAnswered = false
  /** The last of each kind: a flood of them takes no memory. */
  #held: Map<string, Chunk> | undefined
  /** Those that failed, each with its error at the same place. */
  readonly #tried: Rival[] = []
  readonly #errors: MillraceError[] = []
  /** What is told of those that were passed over. */
  #passedOver: readonly Facts[] = []

  constructor(shared: FallbackShared, request: ChatRequest, options: CallOptions) {
    super()
    this.#shared = shared
    this.#request = request
    this.#options = options
    const asked: unknown = (request as ChatRequest | null)?.model
    this.#asked = typeof asked === 'string' ? asked : ''
  }

  override get ended(): boolean {
    if (this.#isAnswered && this.#source !== undefined && hasEnded(this.#source)) this.over = true
    return super.ended
  }

  async return(): Promise<IteratorResult<Chunk, undefined>> {
    this.over = true
    this.clear()
    this.#leave()
    await this.#source?.return?.()
    return { done: true, value: undefined }
  }

  protected pull(): Promise<readonly Chunk[] | undefined> {
    if (this.over) return Promise.resolve(undefined)
    if (this.#isAnswered && this.#source !== undefined) return nextBatch(this.#source)
    if (this.#opening === undefined) {
      this.#opening = this.#open()
      return this.#opening
    }
    // A read beside the first one waits for it; whether that failed is told there.
    const again = (): Promise<readonly Chunk[] | undefined> => this.pull()
    return this.#opening.then(again, again)
  }

  /** Asks one after the other, up to the first batch with content, or with the finish of an answer that has none. */
  async #open(): Promise<readonly Chunk[] | undefined> {
    this.#shared.counts.calls++
    for (let reads = 1; ; reads++) {
      try {
        this.#options.signal?.throwIfAborted()
        this.#source ??= this.#begin()
        const batch = await nextBatch(this.#source)
        if (this.over) return undefined // the reader has left
        if (batch === undefined) throw withoutFinish()
        if (batch.some(isAnswer)) return this.#answer(batch)
        this.#hold(batch)
        if (reads % silentReads === 0) await nextTurn()
      } catch (error) {
        if (this.over) return undefined
        this.#giveUp(error)
      }
    }
  }

  #begin(): AsyncIterator<Chunk, undefined> {
    const { choose, rules } = this.#shared
    const { rival, passedOver, hasOther } = choose(this.#asked, this.#tried)
    const model = modelOf(rival, this.#asked)
    this.#asking = { rival, trial: rival.cooling.begin(model) }
    rival.counts.asked++
    this.#passedOver = passedOver.map(({ rival: other, failing }) => this.#told(other, failing.failure, 'cooling'))
    if (this.#tried.length === 0) for (const { rival: other } of passedOver) other.counts.passedOver++
    const request = model === this.#asked ? this.#request : { ...this.#request, model }
    const options = hasOther ? withShortWaits(this.#options, rules.patienceMs) : this.#options
    const { idempotencyKey } = options
    // By the place in the list, not by the order of asking: the call that is made again has the same keys again.
    const keyed =
      idempotencyKey === undefined || rival.index === 0
        ? options
        : { ...options, idempotencyKey: `${idempotencyKey}-${rival.index}` }
    return rival.provider(request, keyed)[Symbol.asyncIterator]()
  }

  #hold(batch: readonly Chunk[]): void {
    this.#held ??= new Map()
    for (const chunk of batch) {
      if (chunk.type === 'note') this.#held.set(chunk.from, chunk)
      else if (chunk.type === 'start' || chunk.type === 'usage') this.#held.set(chunk.type, chunk)
    }
  }

  #answer(batch: readonly Chunk[]): readonly Chunk[] {
    const { rival, trial } = this.#asking as Asking
    this.#asking = undefined
    this.#isAnswered = true
    rival.counts.answered++
    rival.cooling.answered(trial)
    if (this.#tried.length > 0) this.#shared.counts.movedOn++
    const all = this.#held === undefined ? batch : [...this.#held.values(), ...batch]
    this.#held = undefined
    if (this.#tried.length === 0 && this.#passedOver.length === 0) return all
    const facts = { provider: rival.name, tried: this.#list() }
    return all.toSpliced(all[0]?.type === 'start' ? 1 : 0, 0, { type: 'note', from: 'fallback', facts })
  }

  /** The one that is asked has failed. Throws where no other is to be asked. */
  #giveUp(error: unknown): void {
    const { rules, counts, size } = this.#shared
    const { signal, deadline } = this.#options
    const asking = this.#asking
    void dismiss(this.#source)
    this.#source = undefined
    this.#held = undefined
    const moves = asking !== undefined && signal?.aborted !== true && rules.movesOn(error)
    if (moves && rules.coolsDown(error)) asking.rival.cooling.failed(asking.trial, failureOf(error), toldMs(error))
    else this.#leave()
    this.#asking = undefined
    if (asking !== undefined && isMillraceError(error)) {
      this.#tried.push(asking.rival)
      this.#errors.push(error)
    }
    if (moves) {
      asking.rival.counts.failed++
      if (this.#tried.length === size) counts.exhausted++
      else if (deadline?.remainingMs() !== 0) return
    }
    this.over = true
    throw signal?.aborted === true ? signal.reason : this.#explained(moves ? this.#mostTelling() : error)
  }

  /** It ends without having said how the provider is. */
  #leave(): void {
    if (this.#asking !== undefined) this.#asking.rival.cooling.left(this.#asking.trial)
    this.#asking = undefined
  }

  /** The last error that may pass: where one provider may be back, the call may be made again. Or else the last. */
  #mostTelling(): unknown {
    return this.#errors.findLast(({ retryable }) => retryable) ?? this.#errors.at(-1)
  }

  #explained(error: unknown): unknown {
    const rival = this.#tried[this.#errors.indexOf(error as MillraceError)]
    // Who closes may tell many calls with one error.
    if (rival === undefined || isMillraceError(error, 'closed')) return error
    const tried = this.#list()
    const who = { provider: rival.name, model: modelOf(rival, this.#asked) }
    return annotate(error, { context: tried.length > 1 ? { ...who, tried } : who })
  }

  #list(): Facts[] {
    const failed = this.#tried.map((rival, at) => {
      const error = this.#errors[at] as MillraceError
      return this.#told(rival, failureOf(error), isLimited(error) ? 'limited' : 'failed')
    })
    return [...this.#passedOver, ...failed]
  }

  #told(rival: Rival, { code, status }: Failure, reason: 'failed' | 'limited' | 'cooling'): Facts {
    const model = modelOf(rival, this.#asked)
    return { provider: rival.name, model, code, ...(status === undefined ? {} : { status }), reason }
  }
}

/** Not waited for: the next one is asked at once. */
async function dismiss(source: AsyncIterator<Chunk, undefined> | undefined): Promise<void> {
  try {
    await source?.return?.()
  } catch {
    // It has failed already, and that is told; here it only says so again.
  }
}

function isAnswer(chunk: Chunk): boolean {
  return chunk.type === 'finish' || isContent(chunk)
}

function withoutFinish(): MillraceError<'protocol'> {
  return new MillraceError('protocol', 'the stream ended without content and without a finish reason', {
    details: { reason: 'incomplete' }
  })
}
