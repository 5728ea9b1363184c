import { type CallTally, type Completion, isFromCache, type Json } from '@millrace/core'
import type { Context } from 'hono'
import type { GatewayEnv } from './context.ts'

/** What the layers did, as response headers, and for the record of the request. */
export function factsOf(
  context: Context<GatewayEnv>,
  { notes, provider, tally }: { notes: Completion['notes']; provider: string | undefined; tally: CallTally }
): Record<string, string> {
  const cache = plain(notes.cache?.state)
  const attempts = isFromCache(notes.cache) ? 0 : Number(notes.retry?.attempts ?? 1)
  const dropped = plain(notes.tokens?.dropped)
  const overheadMs = overheadOf(context, tally, cache)
  context.get('record').tell({ provider, overheadMs, cache, attempts })
  return {
    ...(cache !== undefined && { 'x-millrace-cache': cache }),
    ...attemptsAt(provider, attempts),
    ...(overheadMs !== undefined && { 'x-millrace-overhead-ms': overheadMs.toFixed(2) }),
    ...(dropped !== undefined && { 'x-millrace-dropped-messages': dropped })
  }
}

function plain(fact: Json | undefined): string | undefined {
  return typeof fact === 'string' || typeof fact === 'number' ? String(fact) : undefined
}

/** Also what is known of a call that failed. */
export function attemptsAt(provider: string | undefined, attempts: number | undefined): Record<string, string> {
  return {
    ...(attempts !== undefined && { 'x-millrace-attempts': String(attempts) }),
    ...(provider !== undefined && { 'x-millrace-provider': headerText(provider) })
  }
}

/** All time less what was waited for others. Who has joined another's call has waited for it, and cannot tell for how long. */
function overheadOf(context: Context<GatewayEnv>, tally: CallTally, cache: string | undefined): number | undefined {
  if (cache === 'joined') return undefined
  const elapsedMs = performance.now() - context.get('arrivedAt')
  return Math.max(0, elapsedMs - (tally.providerMs ?? 0) - tally.otherMs)
}

/** Names come from a configuration: any text, where headers take some. */
function headerText(text: string): string {
  return text.replace(/[^\x20-\x7e]/g, '?')
}
