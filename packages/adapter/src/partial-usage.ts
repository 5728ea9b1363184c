import { type ChatRequest, type Completion, inputTokens, isMillraceError, type Usage, type UsageEstimate } from '@millrace/core'
import type { Tokenizer, Tokenizers } from '@millrace/tokens'

/**
 * What an answer that broke off will have cost: the prompt as it was sent, and what came of the answer. A provider bills both,
 * and tells neither.
 */
export function partialUsage(tokenizers: Tokenizers, request: ChatRequest): UsageEstimate {
  return (partial) => {
    try {
      return estimate(tokenizers.for(request.model), request, partial)
    } catch (error) {
      // Tokenizers that were closed, or a request nobody can count: what broke the call is told all the same.
      if (isMillraceError(error)) return undefined
      throw error
    }
  }
}

function estimate(tokenizer: Tokenizer, request: ChatRequest, { usage, notes, ...answer }: Completion): Usage {
  const { text, refusal = '', reasoning, toolCalls } = answer
  const calls = toolCalls.map((call) => tokenizer.count(call.name) + tokenizer.count(call.arguments))
  const visible = tokenizer.count(text) + tokenizer.count(refusal) + calls.reduce((sum, tokens) => sum + tokens, 0)
  const thought = tokenizer.count(reasoning.map((block) => block.text).join(''))
  const state = notes.cache?.state
  return {
    // Anthropic tells the input at the start; of the output it knows no more than the first token there.
    input: usage !== undefined && inputTokens(usage) > 0 ? usage.input : inputOf(tokenizer, request, notes.tokens?.saved),
    output: {
      text: Math.max(visible, usage?.output.text ?? 0),
      reasoning: Math.max(thought, usage?.output.reasoning ?? 0)
    },
    estimated: true,
    billed: state !== 'hit' && state !== 'stale' && state !== 'joined'
  }
}

/** The budget may have dropped some of it. */
function inputOf(tokenizer: Tokenizer, request: ChatRequest, saved: unknown): Usage['input'] {
  const tokens = tokenizer.countMessages(request.messages, request)
  return { uncached: Math.max(0, tokens - (typeof saved === 'number' ? saved : 0)), cacheRead: 0, cacheWrite: 0 }
}
