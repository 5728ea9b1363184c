import { isJsonObject, type Json, type JsonObject } from '@millrace/core'
import { areArguments, objectsOf, openaiUsage, says, type Verdict, verdict, type WireStream } from './wire-verdict.ts'

/** Together says `eos` for the model's own end. A filter, a limit and what is not known are not here. */
const finishes: ReadonlySet<Json | undefined> = new Set(['stop', 'tool_calls', 'function_call', 'eos'])
const forCalls: ReadonlySet<Json | undefined> = new Set(['tool_calls', 'function_call'])
/** Not what it thought: who thought and said nothing has not answered. */
const contents = ['content', 'refusal', 'tool_calls', 'function_call', 'audio', 'images']

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
  if (forCalls.has(choice.finish_reason) && !says(message.tool_calls) && !says(message.function_call)) return false
  const functions = objectsOf(message.tool_calls).map((call) => call.function)
  return [...functions, message.function_call].filter(isJsonObject).every((called) => areArguments(called.arguments))
}

interface Choice {
  finish: Json | undefined
  says: boolean
  hasCalls: boolean
  failed: boolean
  readonly calls: Calls
}

interface Calls {
  readonly all: Call[]
  /** The last one begun under each index. */
  readonly byIndex: Map<Json | undefined, Call>
}

interface Call {
  readonly id: Json | undefined
  arguments: string
}

/**
 * A stream of the same: each choice that was begun finished well and said nothing more, tool arguments parse when put
 * together, then `[DONE]`.
 */
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
    if (forCalls.has(choice.finish) && !choice.hasCalls) return undefined
    if (!choice.calls.all.every((call) => areArguments(call.arguments))) return undefined
  }
  return verdict(model, openaiUsage(usage))
}

function take(piece: JsonObject, choices: Map<Json, Choice>): void {
  const index = piece.index ?? 0
  const choice = choices.get(index) ?? begun()
  choices.set(index, choice)
  const delta = isJsonObject(piece.delta) ? piece.delta : isJsonObject(piece.message) ? piece.message : {}
  const said = contents.filter((name) => says(delta[name]))
  if (says(piece.text)) said.push('text')
  choice.failed ||= says(piece.error)
  // Together finishes behind each of several calls.
  if (choice.finish !== undefined) choice.failed ||= said.some((name) => name !== 'tool_calls' || !forCalls.has(choice.finish))
  choice.says ||= said.length > 0
  if (says(piece.finish_reason)) {
    choice.finish = piece.finish_reason
    // What was cut or filtered stays so, whatever is said later.
    choice.failed ||= !finishes.has(choice.finish)
  }
  choice.hasCalls ||= says(delta.tool_calls) || says(delta.function_call)
  for (const call of objectsOf(delta.tool_calls)) takeCall(call, call.function, choice.calls)
  if (isJsonObject(delta.function_call)) takeCall({ index: 'legacy' }, delta.function_call, choice.calls)
}

function begun(): Choice {
  return { finish: undefined, says: false, hasCalls: false, failed: false, calls: { all: [], byIndex: new Map() } }
}

/** Some servers leave the index out, and some give each of several calls the same one: an id of its own tells them apart. */
function takeCall({ index, id }: JsonObject, called: Json | undefined, { all, byIndex }: Calls): void {
  if (!isJsonObject(called)) return // a custom tool takes any text
  let call = index === undefined ? all.at(-1) : byIndex.get(index)
  if (call === undefined || (says(id) && id !== call.id)) {
    call = { id, arguments: '' }
    all.push(call)
    byIndex.set(index, call)
  }
  const more = called.arguments
  if (typeof more === 'string') call.arguments += more
  else if (isJsonObject(more)) call.arguments += JSON.stringify(more)
}
