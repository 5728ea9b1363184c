import { isJsonObject, type Json, type JsonObject, type Usage } from '@millrace/core'
import { count, objectsOf, says, usageFrom, type Verdict, verdict } from './wire-verdict.ts'

/**
 * An answer of Google's generateContent, whole or in pieces: a stream has no terminal event, so each candidate must have
 * finished with `STOP` in its last piece. Models of 2024 say it in every piece: there the end of the bytes alone is the end,
 * and a stream of theirs that something on the way ends early, but properly, is not told from a whole one.
 */
export function judgeGoogle(pieces: readonly JsonObject[]): Verdict | undefined {
  const finishes = new Map<Json, Json | undefined>()
  const speaking = new Set<Json>()
  let model: Json | undefined
  let usage: Json | undefined
  for (const piece of pieces) {
    if (isJsonObject(piece.promptFeedback) && says(piece.promptFeedback.blockReason)) return undefined
    model = piece.modelVersion ?? model
    usage = piece.usageMetadata ?? usage
    for (const candidate of objectsOf(piece.candidates)) {
      const index = candidate.index ?? 0
      finishes.set(index, candidate.finishReason)
      const parts = isJsonObject(candidate.content) ? objectsOf(candidate.content.parts) : []
      if (parts.some(hasContent)) speaking.add(index)
    }
  }
  if (finishes.size === 0) return undefined
  for (const [index, finish] of finishes) if (finish !== 'STOP' || !speaking.has(index)) return undefined
  return verdict(model, usageOf(usage))
}

const thinking: ReadonlySet<string> = new Set(['text', 'thought', 'thoughtSignature'])

/** What it thought is none. */
function hasContent(part: JsonObject): boolean {
  return (says(part.text) && part.thought !== true) || Object.keys(part).some((name) => !thinking.has(name))
}

/** Google counts thoughts beside the answer, and what a tool fed in beside the prompt. */
function usageOf(usage: Json | undefined): Usage | undefined {
  if (!isJsonObject(usage)) return undefined
  const { promptTokenCount, toolUsePromptTokenCount, cachedContentTokenCount, candidatesTokenCount, thoughtsTokenCount } = usage
  return usageFrom({
    input: count(promptTokenCount) + count(toolUsePromptTokenCount),
    cacheRead: cachedContentTokenCount,
    output: count(candidatesTokenCount) + count(thoughtsTokenCount),
    reasoning: thoughtsTokenCount
  })
}
