import { isJsonObject, MillraceError, parseJson } from '@millrace/core'
import { Hono } from 'hono'
import type { GatewayEnv, Parts } from './context.ts'

/** What a visitor may break, and how it stands. */
export function faultRoutes({ faults }: Parts): Hono<GatewayEnv> {
  const app = new Hono<GatewayEnv>()
  app.get('/v1/faults', (context) => context.json(faults.state()))
  app.put('/v1/faults', async (context) => {
    const wanted = parseJson(await context.req.text())
    if (!isJsonObject(wanted)) throw new MillraceError('invalid-request', 'the body is not a JSON object', { details: {} })
    await faults.set(wanted)
    return context.json(faults.state())
  })
  return app
}
