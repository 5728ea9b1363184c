import { hash } from 'node:crypto'
import { MillraceError } from '@millrace/core'
import type { Ask, Counter, Denial, End, LimitState, News, Terms, Verdict } from './store.ts'

/** The words of the script in redis-script.ts, each in JSON, where the position tells what a number is. */
export interface Words {
  ask(ask: Ask): string
  /** `id` is that of the take. */
  end(end: End, id: string): string
  /** Gives back all of an ask, as if it had never been granted. */
  undo(ask: Ask, id: string): string
  news(terms: Terms, news: News): string
  state(terms: Terms): string
}

export function createWords(): Words {
  // Terms are the same from call to call.
  const texts = new WeakMap<Terms, string>()

  function textOf(terms: Terms): string {
    const known = texts.get(terms)
    if (known !== undefined) return known
    const { concurrency, requests, tokens, windowMs, adaptive } = terms
    const text = `${[concurrency, requests, tokens, windowMs].map(numberText).join(',')},${adaptive ? 1 : 0}`
    texts.set(terms, text)
    return text
  }

  return {
    ask(ask) {
      if (ask.kind === 'budget') return `["b",${numberText(ask.limit)},${ask.windowMs},${ask.amount}]`
      return `["r",${ask.place ? 1 : 0},${ask.tokens},${textOf(ask.terms)}]`
    },
    end(end, id) {
      if (end.kind === 'budget') return `["b","${id}",${end.used}]`
      const { at, place, tokens, terms, usedTokens, usedRequests, outcome } = end
      return `["r","${id}",${place ? 1 : 0},${tokens},${at},${usedTokens},${usedRequests},"${outcome}",${textOf(terms)}]`
    },
    undo(ask, id) {
      if (ask.kind === 'budget') return `["b","${id}",0]`
      return `["r","${id}",${ask.place ? 1 : 0},${ask.tokens},0,0,0,"none",${textOf(ask.terms)}]`
    },
    news(terms, { even, pauseMs, requests, tokens }) {
      return `[${textOf(terms)}],${even},${toldText(pauseMs)},${counterText(requests)},${counterText(tokens)}`
    },
    state: (terms) => `[${textOf(terms)}]`
  }
}

/** A name for any key of the caller's: half surrogates, which UTF-8 would make equal, and long ones go by their digest. */
export function nameOf(key: string): string {
  return key.length > 200 || !key.isWellFormed() ? `#${hash('sha256', Buffer.from(key, 'utf16le'))}` : `=${key}`
}

/** All 17 digits of it; what is too large for a number is read as infinite. */
function numberText(value: number): string {
  return value === Number.POSITIVE_INFINITY ? '1e999' : `${value}`
}

/** Nothing for what is no number to go by. */
function toldText(value: number | undefined): string {
  return value !== undefined && value > -1 && value < Number.POSITIVE_INFINITY ? `${value}` : 'false'
}

function counterText(counter: Counter | undefined): string {
  if (counter === undefined) return 'false'
  return `[${toldText(counter.limit)},${toldText(counter.remaining)},${toldText(counter.resetMs)}]`
}

/** @throws {MillraceError} `protocol` */
export function verdictOf(reply: unknown): Verdict {
  const [granted, first, second, wait, left] = textsOf(reply)
  // The time of Redis as it tells it, in seconds and microseconds.
  if (granted === '1')
    return { granted: true, at: second === undefined ? numberOf(first) : numberOf(first) * 1000 + numberOf(second) / 1000 }
  const waitMs = numberOf(wait)
  const denied = {
    granted: false,
    index: numberOf(first),
    why: second as Denial,
    waitMs: waitMs < 0 ? undefined : waitMs
  } as const
  return denied.why === 'budget' ? { ...denied, left: numberOf(left) } : denied
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
