import type { CallOptions, ChatRequest, Chunk, FinishReason, Provider, Usage } from '@millrace/core'

/** A provider in this process: it answers as the test says, and counts. */
export interface Scripted {
  readonly provider: Provider
  readonly calls: { request: ChatRequest; options: CallOptions; ended: 'open' | 'done' | 'aborted' | 'returned' | 'failed' }[]
  /** Chunks read from it so far, all calls together. */
  pulled: number
}

export const usage: Usage = {
  input: { uncached: 7, cacheRead: 2, cacheWrite: 1 },
  output: { text: 4, reasoning: 1 },
  estimated: false,
  billed: true
}

export const start: Chunk = { type: 'start', provider: 'test', model: 'm-1', id: 'id-1' }
export const finish = (reason: FinishReason = 'stop'): Chunk => ({ type: 'finish', reason })

export function answer(text: string, reason: FinishReason = 'stop'): Chunk[] {
  const words: Chunk[] = text.split(/(?<= )/).map((word) => ({ type: 'text', text: word }))
  return [{ ...start }, ...words, { type: 'usage', usage: structuredClone(usage) }, finish(reason)]
}

/** `script` gives the chunks of call number 0, 1, ...; `pace` is awaited before each. It heeds the signal as it must. */
export function script(
  chunks: (call: number, request: ChatRequest) => Iterable<Chunk | Error>,
  pace: (signal: AbortSignal | undefined) => Promise<unknown> = async () => {}
): Scripted {
  const self: Scripted = { provider, calls: [], pulled: 0 }
  async function* provider(request: ChatRequest, options: CallOptions): AsyncGenerator<Chunk, void, undefined> {
    const call = { request: structuredClone(request), options, ended: 'open' as Scripted['calls'][number]['ended'] }
    self.calls.push(call)
    try {
      for (const chunk of chunks(self.calls.length - 1, request)) {
        await abortedOr(pace(options.signal), options.signal)
        if (chunk instanceof Error) throw chunk
        self.pulled++
        yield chunk
      }
      call.ended = 'done'
    } catch (error) {
      call.ended = options.signal?.aborted === true ? 'aborted' : 'failed'
      throw error
    } finally {
      if (call.ended === 'open') call.ended = 'returned'
    }
  }
  return self
}

function abortedOr(work: Promise<unknown>, signal: AbortSignal | undefined): Promise<unknown> {
  if (signal === undefined) return work
  return new Promise((resolve, reject) => {
    const abort = (): void => reject(signal.reason)
    if (signal.aborted) return abort()
    signal.addEventListener('abort', abort, { once: true })
    work.finally(() => signal.removeEventListener('abort', abort)).then(resolve, reject)
  })
}

export async function gather(chunks: AsyncIterable<Chunk>): Promise<Chunk[]> {
  const all: Chunk[] = []
  for await (const chunk of chunks) all.push(chunk)
  return all
}

export function textOf(chunks: readonly Chunk[]): string {
  return chunks.map((chunk) => (chunk.type === 'text' ? chunk.text : '')).join('')
}

export function cacheNote(chunks: readonly Chunk[]): Record<string, unknown> | undefined {
  const note = chunks.find((chunk) => chunk.type === 'note' && chunk.from === 'cache')
  return note?.type === 'note' ? { ...note.facts } : undefined
}

export const ask = (content = 'Hello', rest: Partial<ChatRequest> = {}): ChatRequest => ({
  model: 'm',
  messages: [{ role: 'user', content }],
  ...rest
})
