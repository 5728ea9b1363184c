import { hash } from 'node:crypto'
import { MillraceError } from '@millrace/core'
import type { Ask, Counter, Denial, End, LimitState, News, Terms, Verdict } from './store.ts'

/** The words of the script in redis-script.ts: what it is given, and what it answers. */

/** A name for any key of the caller's: half surrogates, which UTF-8 would make equal, and long ones go by their digest. */
export function nameOf(key: string): string {
  return key.length > 200 || !key.isWellFormed() ? `#${hash('sha256', Buffer.from(key, 'utf16le'))}` : `=${key}`
}

function termsOf({ concurrency, requests, tokens, windowMs, adaptive }: Terms): string[] {
  return [numberText(concurrency), numberText(requests), numberText(tokens), numberText(windowMs), adaptive ? '1' : '0']
}

/** All 17 digits of it. */
function numberText(value: number): string {
  return value === Number.POSITIVE_INFINITY ? 'inf' : `${value}`
}

/** Nothing for what is no number to go by. */
function toldText(value: number | undefined): string {
  return value !== undefined && value > -1 && value < Number.POSITIVE_INFINITY ? `${value}` : ''
}

export function askWords(ask: Ask): string[] {
  if (ask.kind === 'rate') return ['r', ask.place ? '1' : '0', numberText(ask.tokens), ...termsOf(ask.terms)]
  return ['b', numberText(ask.limit), numberText(ask.windowMs), numberText(ask.amount)]
}

/** `id` is that of the take. */
export function endWords(end: End, id: string): string[] {
  if (end.kind === 'budget') return ['b', id, numberText(end.used)]
  const { at, place, tokens, terms, usedTokens, usedRequests, outcome } = end
  const taken = [place ? '1' : '0', numberText(tokens), ...termsOf(terms)]
  return ['r', id, ...taken, numberText(at), numberText(usedTokens), `${usedRequests}`, outcome]
}

/** Gives back all of an ask, as if it had never been granted. */
export function undoWords(ask: Ask, id: string): string[] {
  if (ask.kind === 'budget') return ['b', id, '0']
  return ['r', id, ask.place ? '1' : '0', numberText(ask.tokens), ...termsOf(ask.terms), '0', '0', '0', 'none']
}

export function newsWords(terms: Terms, { even, pauseMs, requests, tokens }: News): string[] {
  return [...termsOf(terms), even ? '1' : '0', toldText(pauseMs), ...counterWords(requests), ...counterWords(tokens)]
}

function counterWords(counter: Counter | undefined): string[] {
  if (counter === undefined) return ['0']
  return ['1', toldText(counter.limit), toldText(counter.remaining), toldText(counter.resetMs)]
}

export const stateWords: (terms: Terms) => string[] = termsOf

/** @throws {MillraceError} `protocol` */
export function verdictOf(reply: unknown): Verdict {
  const [granted, first, why, wait] = textsOf(reply)
  if (granted === '1') return { granted: true, at: numberOf(first) }
  const waitMs = numberOf(wait)
  return { granted: false, index: numberOf(first), why: why as Denial, waitMs: waitMs < 0 ? undefined : waitMs }
}

/** @throws {MillraceError} `protocol` */
export function stateOf(reply: unknown): LimitState {
  const [running, requestsLeft, tokensLeft, ceiling, pausedMs] = textsOf(reply).map(numberOf)
  return {
    running: running as number,
    requestsLeft: requestsLeft as number,
    tokensLeft: tokensLeft as number,
    ceiling: ceiling as number,
    pausedMs: pausedMs as number
  }
}

function textsOf(reply: unknown): string[] {
  if (Array.isArray(reply) && reply.length >= 2 && reply.every((part) => typeof part === 'string')) return reply
  throw unexpected()
}

function numberOf(text: string | undefined): number {
  const value = text === 'inf' ? Number.POSITIVE_INFINITY : Number(text)
  if (Number.isNaN(value)) throw unexpected()
  return value
}

function unexpected(): MillraceError {
  return new MillraceError('protocol', 'Redis answered a step of the limits with something else', {
    details: { reason: 'unexpected' }
  })
}
