/** What one limit allows, the same in all processes that share it. `Infinity` where it sets no bound. */
export interface Terms {
  /** Calls at a time. */
  readonly concurrency: number
  /** Requests a window: so many at once after a rest, and refilled evenly over it. */
  readonly requests: number
  /** Tokens a window, in the same way. */
  readonly tokens: number
  readonly windowMs: number
  /** Whether what the provider tells of its limits moves these. */
  readonly adaptive: boolean
}

/** What one call asks of one limit: one place, one request, and `tokens`. */
export interface RateAsk {
  readonly kind: 'rate'
  readonly key: string
  readonly terms: Terms
  readonly tokens: number
  /** False asks for a request only: another attempt of a call that has its place and its tokens. */
  readonly place: boolean
}

/** What one call asks of one budget, in the budget's unit. */
export interface BudgetAsk {
  readonly kind: 'budget'
  readonly key: string
  readonly limit: number
  /** Windows begin at multiples of it since 1970, by the store's clock: 86,400,000 is a day of UTC. */
  readonly windowMs: number
  readonly amount: number
}

export type Ask = RateAsk | BudgetAsk

export type Denial = 'paused' | 'concurrency' | 'requests' | 'tokens' | 'budget'

export type Verdict =
  | { readonly granted: true /** By the store's clock, to be handed back with the end. */; readonly at: number }
  | {
      readonly granted: false
      /** Which of the asks was denied. */
      readonly index: number
      readonly why: Denial
      /**
       * When to ask again; `undefined` when only the end of another call helps. Of a budget that is spent, when its next window
       * begins; of one that is merely reserved, `undefined`.
       */
      readonly waitMs: number | undefined
      /** Of a budget, in its unit: where there is a wait, what is not spent, else what is not reserved either. */
      readonly left?: number | undefined
    }

/** What became of what was taken from one limit. */
export interface RateEnd {
  readonly kind: 'rate'
  readonly key: string
  readonly terms: Terms
  /** Of the verdict that granted it. */
  readonly at: number
  /** As they were asked for. */
  readonly tokens: number
  readonly place: boolean
  /** What was used in truth; may be more than was asked. */
  readonly usedTokens: number
  /** 0 gives the request back: nothing was sent. */
  readonly usedRequests: 0 | 1
  /** What it says about the provider: `refused` is 429, overload or silence; `none` says nothing. */
  readonly outcome: 'ok' | 'refused' | 'none'
}

export interface BudgetEnd {
  readonly kind: 'budget'
  readonly key: string
  readonly windowMs: number
  readonly at: number
  readonly amount: number
  readonly used: number
}

export type End = RateEnd | BudgetEnd

/** What a provider said about one of its counters. */
export interface Counter {
  readonly limit?: number | undefined
  readonly remaining?: number | undefined
  /** Until it is full again. */
  readonly resetMs?: number | undefined
}

/** What one response told of the provider's limits. */
export interface News {
  readonly requests?: Counter | undefined
  readonly tokens?: Counter | undefined
  /** Refilled evenly (OpenAI, Azure, Groq, Anthropic) rather than all at once when the window ends (IETF, Mistral). */
  readonly even: boolean
  /** Nothing may be sent for so long: the hint of a 429, jitter included. */
  readonly pauseMs?: number | undefined
}

/** How one limit stands. */
export interface LimitState {
  readonly running: number
  /** `Infinity` where there is no bound. */
  readonly requestsLeft: number
  readonly tokensLeft: number
  /** Calls at a time that the provider seems to bear; at most the limit's own. */
  readonly ceiling: number
  readonly pausedMs: number
}

/**
 * Keeps how much of each limit is taken: in this process, or in Redis for many. Every decision is one step that nothing comes
 * between, by the store's own clock: a clock of a process that is off does no harm.
 */
export interface LimitStore {
  /** All of the asks or none. Rejects when the store cannot be asked; it never takes longer than its own time limit. */
  take(asks: readonly Ask[]): Verdict | Promise<Verdict>
  /** What a call had is over. */
  end(ends: readonly End[]): undefined | Promise<void>
  learn(key: string, terms: Terms, news: News): undefined | Promise<void>
  state(key: string, terms: Terms): LimitState | Promise<LimitState>
  /** Gives back the places that this process has. Safe to call twice. */
  close(): Promise<void>
}
