import { isJsonObject, type JsonObject } from '@millrace/core'
import { areArguments, isSet, objectsOf, openaiUsage, says, type Verdict, verdict, type WireStream } from './wire-verdict.ts'

/** One answer of OpenAI's Responses API. */
export function judgeResponse(response: JsonObject): Verdict | undefined {
  const { status, error, incomplete_details, output, model, usage } = response
  if (status !== 'completed' || isSet(error) || isSet(incomplete_details)) return undefined
  const items = objectsOf(output)
  if (!items.every(isWhole) || !items.some(hasContent)) return undefined
  return verdict(model, openaiUsage(usage))
}

function isWhole({ type, status, arguments: text }: JsonObject): boolean {
  if (isSet(status) && status !== 'completed') return false
  return type !== 'function_call' || areArguments(text)
}

function hasContent({ type, content }: JsonObject): boolean {
  if (type === 'reasoning') return false // it thought, and said nothing
  return type === 'message' ? objectsOf(content).some((part) => says(part.text) || says(part.refusal)) : true
}

/** A stream of the same: its last event, `response.completed`, holds the whole answer. */
export function judgeResponseStream({ events }: WireStream): Verdict | undefined {
  const last = events.find(({ type }) => type === 'response.completed')
  if (last === undefined || last !== events.at(-1) || !isJsonObject(last.response)) return undefined
  return judgeResponse(last.response)
}
