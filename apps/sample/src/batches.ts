import type { Adapter } from '@millrace/adapter'
import { batch, type Outcome } from '@millrace/batch'
import { checkRequest, isMillraceError, type JsonObject, onAbort, sleep } from '@millrace/core'
import { withRoom } from './batch-room.ts'
import { writeCompletion } from './openai-answer.ts'
import { readRequest } from './openai-request.ts'

/** Why a line is not asked. */
export interface LineFault {
  readonly code: string
  readonly message: string
}

/** One line of a batch, as plain JSON, for it may be answered by another replica. Faulty ones go along, for they are bounded so. */
export type BatchItem =
  | { readonly refused: LineFault }
  | {
      /** A chat request in OpenAI's shape. */
      readonly body: JsonObject
      /** Of its line. */
      readonly bytes: number
      readonly tenant?: string
      readonly callId: string
    }

/** An answer's body as JSON text. */
export type BatchAnswer = { readonly text: string } | { readonly refused: LineFault }

/** Where the lines of batches are answered: here, or by all replicas. */
export interface Batches extends AsyncDisposable {
  /**
   * One outcome for each item, as it is known. At most 16 items are under way, and fewer where lines or answers are large or
   * outcomes are not taken: see `withRoom`. Leaving the loop ends what runs.
   */
  run(items: AsyncIterable<BatchItem>, signal: AbortSignal): AsyncIterable<Outcome<BatchAnswer>>
  /**
   * Takes no more items of other replicas' batches at once, gives those that run `graceMs`, hands them on, and ends the
   * batches that run here. Where nothing is shared it has nothing to do: the adapter's closing ends them.
   */
  close(options?: { readonly graceMs?: number }): Promise<void>
}

export interface BatchesOptions {
  readonly adapter: Adapter
  /** The longest one item may take, its waits for a limit included. */
  readonly itemMs: number
}

/** Lines of one batch under way at a time, on all replicas together. */
const concurrency = 16

/** Batches that run at a time in one process. */
export const maxBatches = 32

/** Of one answer as JSON. */
const maxAnswerBytes = 1024 * 1024

/** Batches whose items are all answered by this process. */
export function localBatches(options: BatchesOptions): Batches {
  return {
    run: (items, signal) =>
      withRoom(items, (admitted) =>
        batch(admitted, (item, context) => answer(options, item, context), { concurrency, maxBuffered: concurrency, signal })
      ),
    async close() {},
    async [Symbol.asyncDispose]() {}
  }
}

/**
 * Batches whose items any replica with the same Redis answers. A replica that dies or closes loses none: they run again
 * elsewhere, with the same idempotency key.
 */
export async function queuedBatches(
  options: BatchesOptions & { readonly url: string; readonly maxBodyBytes: number }
): Promise<Batches> {
  const { url, maxBodyBytes } = options
  // Only here, for few have a Redis, and BullMQ is as much code as all the rest.
  const { createBatchQueue, createBatchWorker } = await import('@millrace/batch/bullmq')
  const common = { name: 'gateway-batches', connection: url }
  const worker = createBatchWorker<BatchItem, BatchAnswer>({
    ...common,
    // A place for each line that may be in the queue: in one with fewer, the lines of one batch would wait behind another's.
    concurrency: maxBatches * concurrency,
    // An answer is JSON text within JSON, which at most doubles it.
    maxResultBytes: 2 * maxAnswerBytes + envelopeBytes,
    // A pause would be everybody's: each line waits by itself.
    pause: () => undefined,
    async work(item, context) {
      try {
        return await patiently(() => answer(options, item, context), options.itemMs, context.signal)
      } catch (error) {
        if (!isMillraceError(error, 'closed')) throw error
        // This replica closes, which is no outcome: held until the worker hands it on.
        return new Promise((_, reject) => onAbort(context.signal, reject))
      }
    }
  })
  const queue = createBatchQueue<BatchItem, BatchAnswer>({ ...common, maxItemBytes: maxBodyBytes + envelopeBytes })
  let closing: Promise<void> | undefined

  async function end(graceMs: number | undefined): Promise<void> {
    // In this order: until the end of the grace other replicas may still answer what was asked here.
    await worker.close(graceMs === undefined ? {} : { graceMs })
    await queue.close()
  }

  const batches: Batches = {
    run: (items, signal) => withRoom(items, (admitted) => queue.run(admitted, { window: concurrency, signal })),
    close({ graceMs } = {}) {
      closing ??= end(graceMs)
      return closing
    },
    [Symbol.asyncDispose]: () => batches.close()
  }
  return batches
}

/** Of what stands around a body. */
const envelopeBytes = 4096

interface Context {
  readonly signal: AbortSignal
  readonly idempotencyKey: string | undefined
}

async function answer(
  { adapter, itemMs }: BatchesOptions,
  item: BatchItem,
  { signal, idempotencyKey }: Context
): Promise<BatchAnswer> {
  if ('refused' in item) return item
  const { body, tenant, callId } = item
  const request = readRequest(body)
  if (request === undefined) return { refused: foreign }
  checkRequest(request)
  const timeouts = { totalMs: itemMs }
  const completion = await adapter.complete(request, { signal, tenant, callId, idempotencyKey, timeouts })
  const text = JSON.stringify(writeCompletion(completion, `chatcmpl-${callId}`, Math.floor(Date.now() / 1000)))
  return Buffer.byteLength(text) > maxAnswerBytes ? { refused: tooLarge } : { text }
}

const tooLarge: LineFault = {
  code: 'answer_too_large',
  message: `the answer is longer than ${maxAnswerBytes} bytes: ask for it by /v1/chat/completions`
}

/** Works again when it is told to come back later, as long as `totalMs` allows. */
async function patiently<T>(work: () => Promise<T>, totalMs: number, signal: AbortSignal): Promise<T> {
  const endsAt = performance.now() + totalMs
  for (let tries = 1; ; tries++) {
    try {
      return await work()
    } catch (error) {
      const ms = laterMs(error, tries)
      if (ms === undefined || tries > maxTries || performance.now() + ms > endsAt) throw error
      await sleep(ms, signal)
    }
  }
}

const maxTries = 20

function laterMs(error: unknown, tries: number): number | undefined {
  if (isMillraceError(error, 'rate-limited') || isMillraceError(error, 'overloaded')) return error.details.retryAfterMs
  // Of this process: there is a place when another line has gone.
  return isMillraceError(error, 'queue-full') ? Math.min(100 * 2 ** tries, 10_000) : undefined
}

/** What the contract of the adapter has no words for. */
const foreign: LineFault = {
  code: 'unsupported_request',
  message: 'a batch takes no several choices (n), custom tools, functions or audio: ask for them by /v1/chat/completions'
}
