import { isJsonObject, type Json, type JsonObject } from '@millrace/core'
import { areArguments, objectsOf, openaiUsage, says, type Verdict, verdict, type WireStream } from './wire-verdict.ts'

/** Together says `eos` for the model's own end. A filter, a limit and what is not known are not here. */
const finishes: ReadonlySet<Json | undefined> = new Set(['stop', 'tool_calls', 'function_call', 'eos'])
const contents = ['content', 'refusal', 'reasoning', 'reasoning_content', 'tool_calls', 'function_call', 'audio', 'images']

/** One answer of OpenAI's chat completions or legacy completions: every choice finished well, with content. */
export function judgeChat(body: JsonObject): Verdict | undefined {
  const choices = objectsOf(body.choices)
  if (choices.length === 0 || !choices.every(isWhole)) return undefined
  return verdict(body.model, openaiUsage(body.usage))
}

function isWhole(choice: JsonObject): boolean {
  if (!finishes.has(choice.finish_reason) || says(choice.error)) return false
  if (says(choice.text)) return true
  const { message } = choice
  if (!isJsonObject(message) || !contents.some((name) => says(message[name]))) return false
  const functions = objectsOf(message.tool_calls).map((call) => call.function)
  return [...functions, message.function_call].filter(isJsonObject).every((called) => areArguments(called.arguments))
}

interface Choice {
  finish: Json | undefined
  says: boolean
  failed: boolean
  readonly calls: Call[]
}

interface Call {
  readonly index: Json | undefined
  readonly id: Json | undefined
  arguments: string
}

/** A stream of the same: each choice that was begun finished well, tool arguments parse when put together, then `[DONE]`. */
export function judgeChatStream({ events, done }: WireStream): Verdict | undefined {
  const choices = new Map<Json, Choice>()
  let model: Json | undefined
  let usage: Json | undefined
  // Perplexity's last event takes the place of `[DONE]`.
  let ended = done
  for (const event of events) {
    if (says(event.model)) model = event.model
    const xGroq = isJsonObject(event.x_groq) ? event.x_groq.usage : undefined
    usage = event.usage ?? xGroq ?? usage
    ended ||= event.object === 'chat.completion.done'
    for (const choice of objectsOf(event.choices)) {
      usage = choice.usage ?? usage
      take(choice, choices)
    }
  }
  if (!ended || choices.size === 0) return undefined
  for (const choice of choices.values()) {
    if (choice.failed || !choice.says || !finishes.has(choice.finish)) return undefined
    if (!choice.calls.every((call) => areArguments(call.arguments))) return undefined
  }
  return verdict(model, openaiUsage(usage))
}

function take(piece: JsonObject, choices: Map<Json, Choice>): void {
  const index = piece.index ?? 0
  const choice = choices.get(index) ?? { finish: undefined, says: false, failed: false, calls: [] }
  choices.set(index, choice)
  if (says(piece.finish_reason)) choice.finish = piece.finish_reason
  choice.failed ||= says(piece.error)
  choice.says ||= says(piece.text)
  const delta = piece.delta ?? piece.message
  if (!isJsonObject(delta)) return
  choice.says ||= contents.some((name) => says(delta[name]))
  for (const call of objectsOf(delta.tool_calls)) takeCall(call, call.function, choice.calls)
  if (isJsonObject(delta.function_call)) takeCall({ index: 'legacy' }, delta.function_call, choice.calls)
}

/** Some servers leave the index out, and some give each of several calls the same one: an id of its own tells them apart. */
function takeCall({ index, id }: JsonObject, called: Json | undefined, calls: Call[]): void {
  if (!isJsonObject(called)) return // a custom tool takes any text
  let call = calls.findLast((begun) => index === undefined || begun.index === index)
  if (call === undefined || (says(id) && id !== call.id)) {
    call = { index, id, arguments: '' }
    calls.push(call)
  }
  const more = called.arguments
  if (typeof more === 'string') call.arguments += more
  else if (isJsonObject(more)) call.arguments += JSON.stringify(more)
}
