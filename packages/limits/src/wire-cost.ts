import { type Estimator, estimateBodyTokens, usageOf } from './estimate.ts'
import type { LimiterParts } from './limiter.ts'
import type { Cost, Subject } from './permit.ts'
import type { BodySeen } from './request-body.ts'

/** What can be told of a call by its request on the wire. */
export interface WireCall {
  readonly subject: Subject
  readonly inputGuess: number
  readonly maxOutputTokens: number | undefined
}

/**
 * Whom a request goes to and about how much it takes. The provider is the host's name; the model stands in the body, or in the
 * path (Google, Azure). What has no body takes no tokens: a list of models.
 */
export function wireCall(url: string, body: BodySeen): WireCall {
  const { host, pathname } = URL.parse(url) ?? { host: undefined, pathname: '' }
  const text = typeof body === 'string' ? body : body instanceof Uint8Array ? new TextDecoder().decode(body) : body?.text
  const ends = text === undefined ? '' : endsOf(text)
  const model =
    /"model"\s*:\s*"([^"\\]{1,200})"/.exec(ends)?.[1] ?? /\/(?:models|deployments)\/([^/:]{1,200})/.exec(pathname)?.[1]
  const bound = /"(?:max_(?:completion_|output_)?tokens|maxOutputTokens)"\s*:\s*(\d{1,9})/.exec(ends)?.[1]
  return {
    subject: { provider: host, model },
    inputGuess: typeof body === 'object' && 'tokens' in body ? body.tokens : estimateBodyTokens(text ?? ''),
    maxOutputTokens: body === undefined || writesNothing.test(pathname) ? 0 : bound === undefined ? undefined : Number(bound)
  }
}

/** What is answered with numbers: it has no tokens of output, and its models have no price for them. */
const writesNothing = /\/(?:embeddings|rerank|moderations|count_tokens)$/

/** Who writes a body puts its settings before the messages or behind them; of a long one the middle is not searched. */
function endsOf(text: string): string {
  return text.length <= 32_768 ? text : `${text.slice(0, 16_384)}\n${text.slice(-16_384)}`
}

/** What a call on the wire asks of its limits: what the caller says, and the rest by its request. */
export function costOf(
  parts: LimiterParts,
  estimator: Estimator,
  url: string,
  body: BodySeen,
  told: Cost | undefined
): { readonly call: WireCall; readonly cost: Cost } {
  const wire = wireCall(url, body)
  const subject = {
    provider: told?.provider ?? wire.subject.provider,
    model: told?.model ?? wire.subject.model,
    tenant: told?.tenant
  }
  const expected = estimator.expect(groupOf(subject), wire.inputGuess, wire.maxOutputTokens)
  const maxTokens = told?.maxTokens ?? told?.tokens ?? expected.maxInput + expected.maxOutput
  let maxUsd = told?.maxUsd
  if (maxUsd === undefined && parts.needsPrice(subject)) {
    maxUsd = parts.price?.(usageOf(expected.maxInput, expected.maxOutput), subject.model ?? '', subject.provider ?? '')
  }
  return { call: { ...wire, subject }, cost: { ...subject, tokens: told?.tokens ?? expected.tokens, maxTokens, maxUsd } }
}

/** What an estimator keeps apart. */
export function groupOf({ provider = '', model = '' }: Subject): string {
  return `${provider} ${model}`
}
