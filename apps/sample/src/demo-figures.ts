import type { AdapterStats } from '@millrace/adapter'
import type { Target } from './caller.ts'

/** What the gateway counted of a run. */
export interface GatewayFigures {
  readonly upstreamRequests: number
  readonly socketsOpened: number
  readonly tokensIn: number
  /** Calls under way: the figures are whole when there are none. */
  readonly running: number
}

/** Asks the gateway for its own numbers. */
export async function gatewayFigures({ baseURL, apiKey }: Pick<Target, 'baseURL' | 'apiKey'>): Promise<GatewayFigures> {
  const response = await fetch(`${baseURL}/stats`, { headers: { authorization: `Bearer ${apiKey}` } })
  const stats = (await response.json()) as AdapterStats
  const origins = Object.values(stats.origins)
  return {
    upstreamRequests: origins.reduce((total, { requests }) => total + requests, 0),
    socketsOpened: origins.reduce((total, { opened }) => total + opened, 0),
    tokensIn: stats.tokens.input,
    running: stats.running
  }
}
