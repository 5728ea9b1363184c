import { randomUUID } from 'node:crypto'
import { type HttpResponse, isJsonObject, type Json, type JsonObject, parseJson, parseSSE } from '@millrace/core'
import { numberOf } from './doctor-counts.ts'
import { Unanswered } from './doctor-link.ts'

/** Bounds of answers whose text does not matter, and of whole ones: what is cut off is not kept by a cache. */
export const shortTokens = 16
export const longTokens = 400

/** What to ask. Questions that differ in a letter share no cached answer. */
export interface Question {
  readonly messages: readonly { readonly role: 'system' | 'user' | 'assistant'; readonly content: string }[]
  readonly maxTokens: number
}

export interface Answer {
  readonly text: string
  /** What `x-millrace-cache` says. */
  readonly cache: string | undefined
  readonly dropped: number
  readonly promptTokens: number
  readonly completionTokens: number
  readonly elapsedMs: number
}

export interface StreamedAnswer extends Answer {
  /** When text arrived, in milliseconds since the request. */
  readonly arrivals: readonly number[]
  /** Whether a finish reason, `[DONE]` and the usage came. */
  readonly finished: boolean
  readonly done: boolean
  readonly usage: boolean
}

/** A question that nobody has asked before. */
export function newQuestion(task: string, maxTokens: number = longTokens): Question {
  return { messages: [{ role: 'user', content: `[${randomUUID()}] ${task}` }], maxTokens }
}

/** @throws {Unanswered} for what is no answer */
export function readAnswer(response: HttpResponse, text: string, elapsedMs: number): Answer {
  const body = parseJson(text)
  if (!isJsonObject(body)) throw new Unanswered('/v1/chat/completions answered no JSON object')
  const [choice] = Array.isArray(body.choices) ? (body.choices as readonly Json[]) : []
  const content = isJsonObject(choice) && isJsonObject(choice.message) ? choice.message.content : undefined
  return { text: typeof content === 'string' ? content : '', ...factsOf(response, body.usage), elapsedMs }
}

/** @throws {Unanswered} for an error event; whatever the body throws */
export async function readStream(response: HttpResponse, startedAt: number): Promise<StreamedAnswer> {
  const arrivals: number[] = []
  const seen = { text: '', finished: false, done: false }
  let usage: Json | undefined
  for await (const { data } of parseSSE(response.body)) {
    seen.done ||= data === '[DONE]'
    const event = parseJson(data)
    if (!isJsonObject(event)) continue
    if (isJsonObject(event.error)) throw new Unanswered('the stream ended with an error')
    if (isJsonObject(event.usage)) usage = event.usage
    const { content, finished } = deltaOf(event)
    seen.finished ||= finished
    if (content === '') continue
    seen.text += content
    arrivals.push(performance.now() - startedAt)
  }
  return { ...seen, arrivals, usage: usage !== undefined, ...factsOf(response, usage), elapsedMs: performance.now() - startedAt }
}

/** Reads to the first text and leaves; false when the answer was over by then. */
export async function leaveStream({ body }: HttpResponse): Promise<boolean> {
  for await (const { data } of parseSSE(body)) {
    const event = parseJson(data)
    if (isJsonObject(event) && deltaOf(event).content !== '') return body.complete !== true
  }
  return false
}

type Facts = Pick<Answer, 'cache' | 'dropped' | 'promptTokens' | 'completionTokens'>

function factsOf({ headers }: HttpResponse, usage: Json | undefined): Facts {
  const told = isJsonObject(usage) ? usage : {}
  return {
    cache: headers['x-millrace-cache'],
    dropped: Number(headers['x-millrace-dropped-messages'] ?? 0),
    promptTokens: numberOf(told, 'prompt_tokens'),
    completionTokens: numberOf(told, 'completion_tokens')
  }
}

function deltaOf({ choices }: JsonObject): { readonly content: string; readonly finished: boolean } {
  const [choice] = Array.isArray(choices) ? (choices as readonly Json[]) : []
  if (!isJsonObject(choice)) return { content: '', finished: false }
  const content = isJsonObject(choice.delta) ? choice.delta.content : undefined
  return { content: typeof content === 'string' ? content : '', finished: typeof choice.finish_reason === 'string' }
}
