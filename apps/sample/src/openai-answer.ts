import type { Completion, Json } from '@millrace/core'
import { openaiFinishReason, openaiUsage } from '@millrace/streaming'

/** Where an `extra` chunk goes back to in OpenAI's shape; what has no place there is left out. */
const extrasOfMessage: ReadonlySet<string> = new Set(['annotations', 'audio', 'images', 'function_call', 'reasoning_details'])
const extrasOfAnswer: ReadonlySet<string> = new Set(['citations', 'search_results', 'prompt_filter_results'])

/** A whole answer in OpenAI's shape. */
export function writeCompletion(completion: Completion, id: string, created: number): object {
  const { model, text, refusal, reasoning, toolCalls, extras, finish, usage } = completion
  const thought = reasoning.map((block) => block.text).join('')
  return {
    id: completion.id ?? id,
    object: 'chat.completion',
    created,
    model,
    choices: [
      {
        index: 0,
        message: {
          role: 'assistant',
          content: text === '' && toolCalls.length > 0 ? null : text,
          refusal: refusal ?? null,
          ...(thought === '' ? {} : { reasoning_content: thought }),
          ...(toolCalls.length === 0 ? {} : { tool_calls: toolCalls.map(writeToolCall) }),
          ...ofExtras(extras, extrasOfMessage)
        },
        logprobs: logprobsOf(extras),
        finish_reason: openaiFinishReason(finish)
      }
    ],
    ...(usage === undefined ? {} : { usage: openaiUsage(usage) }),
    ...ofExtras(extras, extrasOfAnswer)
  }
}

function writeToolCall({ id, name, arguments: text }: Completion['toolCalls'][number]): object {
  return { id, type: 'function', function: { name, arguments: text } }
}

function ofExtras(extras: Completion['extras'], names: ReadonlySet<string>): Record<string, Json> {
  return Object.fromEntries(extras.filter(({ name }) => names.has(name)).map(({ name, value }) => [name, value]))
}

/** The log probabilities of a streamed answer come in pieces; together they are one list. */
function logprobsOf(extras: Completion['extras']): Json {
  const pieces = extras
    .filter(({ name }) => name === 'logprobs')
    .map(({ value }) => value as { content?: Json[]; refusal?: Json[] })
  if (pieces.length === 0) return null
  if (pieces.length === 1) return pieces[0] as Json
  return { content: pieces.flatMap(({ content }) => content ?? []), refusal: null }
}

export function errorBody(message: string, type: string, code: string, param?: string): object {
  return { error: { message, type, param: param ?? null, code } }
}
