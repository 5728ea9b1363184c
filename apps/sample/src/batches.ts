import type { Adapter } from '@millrace/adapter'
import { batch, type Outcome } from '@millrace/batch'
import { checkRequest, isMillraceError, type JsonObject, onAbort } from '@millrace/core'
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
      readonly tenant?: string
      readonly callId: string
    }

/** An answer's body as JSON text. */
export type BatchAnswer = { readonly text: string } | { readonly refused: LineFault }

/** Where the lines of batches are answered: here, or by all replicas. */
export interface Batches extends AsyncDisposable {
  /**
   * One outcome for each item, as it is known. Items are pulled as outcomes are taken, at
   * most 160 ahead. Leaving the loop ends what runs.
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

const concurrency = 16
const window = concurrency * 10

/** Batches whose items are all answered by this process. */
export function localBatches(options: BatchesOptions): Batches {
  return {
    run: (items, signal) =>
      batch(items, (item, context) => answer(options, item, context), { concurrency, maxBuffered: window, signal }),
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
    concurrency,
    async work(item, context) {
      try {
        return await answer(options, item, context)
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
    run: (items, signal) => queue.run(items, { window, signal }),
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
  return { text: JSON.stringify(writeCompletion(completion, `chatcmpl-${callId}`, Math.floor(Date.now() / 1000))) }
}

/** What the contract of the adapter has no words for. */
const foreign: LineFault = {
  code: 'unsupported_request',
  message: 'a batch takes no several choices (n), custom tools, functions or audio: ask for them by /v1/chat/completions'
}
