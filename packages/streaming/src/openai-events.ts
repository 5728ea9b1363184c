import { randomUUID } from 'node:crypto'
import { type Chunk, checkOptions, type FinishReason, inputTokens, outputTokens, type Usage } from '@millrace/core'
import { checkChunk, notAChunk } from './chunk-check.ts'
import type { EventFormat, EventWriter } from './event-format.ts'
import { openaiError } from './openai-error.ts'

export interface OpenAIEventsOptions {
  /** An event with the usage before `[DONE]`, as `stream_options.include_usage` asks for. @default false */
  readonly includeUsage?: boolean | undefined
  /**
   * Fills each event but `[DONE]` up to a multiple of so many bytes, in a field `obfuscation` that clients ignore, as
   * OpenAI's own API does: who sees the encrypted sizes learns less of the words. @default 0: no filling
   */
  readonly padToBytes?: number | undefined
}

/**
 * The events of OpenAI's chat completions, `[DONE]` last; a stream that broke ends with an event `{ error }` instead, on
 * which the official clients throw. Text, refusal, reasoning (as `reasoning_content`), tool calls, log probabilities and
 * annotations have their place there; notes and other extras do not. Finish `cut` and `other` are told as `length`: the
 * answer may lack its end.
 *
 * @throws {TypeError} when an option is wrong
 *
 * @example
 * return toSSEResponse(adapter.stream(request), { format: openaiEvents({ includeUsage: true }) })
 */
export function openaiEvents(options: OpenAIEventsOptions = {}): EventFormat {
  checkOptions<OpenAIEventsOptions>('openaiEvents', options, { includeUsage: 1, padToBytes: 1 })
  const { includeUsage = false, padToBytes = 0 } = options
  if (typeof includeUsage !== 'boolean') throw new TypeError('includeUsage must be true or false')
  if (!(Number.isSafeInteger(padToBytes) && padToBytes >= 0 && padToBytes <= 65_536)) {
    throw new TypeError(`padToBytes must be a whole number of bytes from 0 to 65536, not ${padToBytes}`)
  }
  return { begin: () => createWriter(includeUsage, padToBytes) }
}

/** Where an `extra` chunk goes back to in OpenAI's shape; what has no place there is left out. */
const extrasOfMessage: ReadonlySet<string> = new Set(['annotations', 'audio', 'images', 'function_call', 'reasoning_details'])
const extrasOfAnswer: ReadonlySet<string> = new Set(['citations', 'search_results', 'prompt_filter_results'])

function createWriter(includeUsage: boolean, padToBytes: number): EventWriter {
  const id = `chatcmpl-${randomUUID()}`
  const created = Math.floor(Date.now() / 1000)
  let usage: Usage | undefined
  let head = headOf(id, '')

  /** All events begin alike: it is written once, and only what differs is turned into JSON for each. */
  function headOf(of: string, model: string): string {
    const fields = JSON.stringify({ id: of, object: 'chat.completion.chunk', created, model })
    return `data: ${fields.slice(0, -1)},`
  }

  function choice(delta: string, logprobs = 'null', finish = 'null'): string {
    return closed(`${head}"choices":[{"index":0,"delta":${delta},"logprobs":${logprobs},"finish_reason":${finish}}]`)
  }

  function closed(event: string): string {
    return padToBytes === 0 ? `${event}}\n\n` : padded(event, padToBytes)
  }

  return {
    write(chunk) {
      checkChunk(chunk)
      switch (chunk.type) {
        case 'text':
          return choice(`{"content":${JSON.stringify(chunk.text)}}`)
        case 'start':
          head = headOf(chunk.id ?? id, chunk.model)
          return choice('{"role":"assistant","content":"","refusal":null}')
        case 'refusal':
          return choice(`{"refusal":${JSON.stringify(chunk.text)}}`)
        case 'reasoning':
          return chunk.text === '' ? '' : choice(`{"reasoning_content":${JSON.stringify(chunk.text)}}`)
        case 'tool-call':
          return choice(JSON.stringify({ tool_calls: [toolCall(chunk)] }))
        case 'extra':
          if (chunk.name === 'logprobs') return choice('{}', JSON.stringify(chunk.value))
          if (extrasOfMessage.has(chunk.name)) return choice(JSON.stringify({ [chunk.name]: chunk.value }))
          if (!extrasOfAnswer.has(chunk.name)) return ''
          return closed(`${head}"choices":[],${JSON.stringify(chunk.name)}:${JSON.stringify(chunk.value)}`)
        case 'usage':
          usage = chunk.usage
          return ''
        case 'finish':
          if (!Object.hasOwn(reasons, chunk.reason)) throw notAChunk('finish')
          return choice('{}', 'null', `"${openaiFinishReason(chunk.reason)}"`)
        case 'note':
          return ''
      }
    },
    end() {
      const told =
        includeUsage && usage !== undefined ? closed(`${head}"choices":[],"usage":${JSON.stringify(openaiUsage(usage))}`) : ''
      return `${told}data: [DONE]\n\n`
    },
    fail: (error) => closed(`data: ${JSON.stringify(openaiError(error).body).slice(0, -1)}`)
  }
}

function toolCall({ index, id, name, arguments: text }: Extract<Chunk, { type: 'tool-call' }>): object {
  const first = id === undefined ? {} : { id, type: 'function' }
  return { index, ...first, function: { ...(name === undefined ? {} : { name }), arguments: text } }
}

/** What is written around the filling, of one byte each. */
const around = ',"obfuscation":""}\n\n'

function padded(event: string, padToBytes: number): string {
  const rest = (Buffer.byteLength(event) + around.length) % padToBytes
  return `${event},"obfuscation":"${'.'.repeat(rest === 0 ? 0 : padToBytes - rest)}"}\n\n`
}

/**
 * The reason in OpenAI's words. A cut answer is as long as it was allowed to be. `other` is a reason of the provider's own
 * (`error`, a malformed function call): OpenAI's clients know no such word and take `stop` for success, but `length` for
 * an answer that may lack its end.
 *
 * @example
 * openaiFinishReason('tool-calls') // 'tool_calls'
 */
export function openaiFinishReason(reason: FinishReason): 'stop' | 'length' | 'tool_calls' | 'content_filter' {
  return reasons[reason]
}

const reasons = {
  stop: 'stop',
  length: 'length',
  'tool-calls': 'tool_calls',
  'content-filter': 'content_filter',
  cut: 'length',
  other: 'length'
} as const

/** Usage in OpenAI's words, where cached tokens count inside the input and reasoning inside the output. */
export interface OpenAIUsage {
  readonly prompt_tokens: number
  readonly completion_tokens: number
  readonly total_tokens: number
  readonly prompt_tokens_details: { readonly cached_tokens: number }
  readonly completion_tokens_details: { readonly reasoning_tokens: number }
}

/**
 * The usage as OpenAI's API tells it.
 *
 * @example
 * const { total_tokens } = openaiUsage(completion.usage)
 */
export function openaiUsage(usage: Usage): OpenAIUsage {
  const input = inputTokens(usage)
  const output = outputTokens(usage)
  return {
    prompt_tokens: input,
    completion_tokens: output,
    total_tokens: input + output,
    prompt_tokens_details: { cached_tokens: usage.input.cacheRead },
    completion_tokens_details: { reasoning_tokens: usage.output.reasoning }
  }
}
