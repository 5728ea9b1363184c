import { isMillraceError } from '@millrace/core'
import type { Context } from 'hono'
import type { GatewayEnv } from './context.ts'

/** What nobody foresaw: outward only that it happened, here where. Ours are the caller's to read. */
export function report({ req }: Context<GatewayEnv>, error: unknown): void {
  if (!isMillraceError(error) && !req.raw.signal.aborted) console.error('millrace: a request failed', error)
}
