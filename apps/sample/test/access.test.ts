import { once } from 'node:events'
import { request as httpRequest } from 'node:http'
import { type AddressInfo, connect, type Server } from 'node:net'
import { serve } from '@hono/node-server'
import { openaiError } from '@millrace/streaming'
import { Hono } from 'hono'
import { describe, expect, it, onTestFinished } from 'vitest'
import { type AccessConfig, accessMiddleware, corsMiddleware, requireOperator } from '../src/access.ts'
import type { GatewayEnv } from '../src/context.ts'

const operatorToken = 'operator-0123456789'
const tenants = [
  { name: 'a', tokens: ['tenant-a-0123456789', 'tenant-a-old-0123456789'] },
  { name: 'b', tokens: ['tenant-b-0123456789'] }
]

/** A real server behind the doors: `/v1/who` tells the caller, `/v1/stats` is the operator's. */
async function start(config: Partial<AccessConfig> = {}): Promise<string> {
  const all: AccessConfig = { host: '127.0.0.1', operatorToken: undefined, tenants: [], origins: [], hosts: [], ...config }
  const app = new Hono<GatewayEnv>()
  app.use('*', corsMiddleware(all))
  app.get('/', (context) => context.text('page'))
  app.use('/v1/*', accessMiddleware(all))
  app.use('/v1/stats', requireOperator(all))
  app.get('/v1/who', (context) => context.json(context.get('caller')))
  app.post('/v1/who', (context) => context.json(context.get('caller')))
  app.get('/v1/stats', (context) => context.json({}))
  app.onError((error, context) => {
    const { status, body } = openaiError(error)
    return context.json(body, status as 500)
  })
  const server = serve({ fetch: app.fetch, hostname: '127.0.0.1', port: 0 }) as Server
  await once(server, 'listening')
  onTestFinished(() => void server.close())
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

interface Answer {
  readonly status: number
  readonly headers: Readonly<Record<string, string | string[] | undefined>>
  readonly body: string
}

/** By node:http, for `fetch` sets neither `host` nor `origin`. */
async function call(url: string, headers: Record<string, string> = {}, method = 'GET'): Promise<Answer> {
  const request = httpRequest(url, { method, headers, agent: false }).end()
  const [response] = (await once(request, 'response')) as [import('node:http').IncomingMessage]
  let body = ''
  for await (const piece of response) body += String(piece)
  return { status: response.statusCode as number, headers: response.headers, body }
}

const bearer = (token: string): Record<string, string> => ({ authorization: `Bearer ${token}` })

describe('who calls', () => {
  it('is the operator where no token is asked for, counted by the address', async () => {
    const url = await start()
    const { body } = await call(`${url}/v1/who`, bearer('whatever'))
    expect(JSON.parse(body)).toEqual({ isOperator: true, countedAs: 'address 127.0.0.1' })
    expect((await call(`${url}/v1/stats`)).status).toBe(200)
  })

  it('is told by the token, as a bearer or as Anthropic has it', async () => {
    const url = await start({ operatorToken, tenants })
    const who = async (headers: Record<string, string>): Promise<unknown> =>
      JSON.parse((await call(`${url}/v1/who`, headers)).body)
    expect(await who(bearer(operatorToken))).toEqual({ isOperator: true, countedAs: 'address 127.0.0.1' })
    expect(await who(bearer('tenant-a-0123456789'))).toEqual({ tenant: 'a', isOperator: false, countedAs: 'tenant a' })
    expect(await who({ 'x-api-key': 'tenant-a-old-0123456789' })).toMatchObject({ tenant: 'a' })
    expect(await who({ authorization: 'bearer   tenant-b-0123456789', 'x-api-key': 'none' })).toMatchObject({ tenant: 'b' })
  })

  it.each([
    {},
    bearer('wrong-0123456789'),
    bearer(''),
    { authorization: operatorToken },
    { 'x-api-key': '' },
    bearer(`${operatorToken}x`)
  ])('is nobody with %j', async (headers: Record<string, string>) => {
    const url = await start({ operatorToken, tenants })
    const { status, body } = await call(`${url}/v1/who`, headers)
    expect(status).toBe(401)
    expect(JSON.parse(body)).toMatchObject({
      error: { message: 'the token is missing or wrong: send it as "Authorization: Bearer …"', type: 'invalid_request_error' }
    })
  })

  it('must be the operator for what concerns all', async () => {
    const url = await start({ operatorToken, tenants })
    expect((await call(`${url}/v1/stats`, bearer(operatorToken))).status).toBe(200)
    const refused = await call(`${url}/v1/stats`, bearer('tenant-a-0123456789'))
    expect(refused.status).toBe(403)
    expect(refused.body).toContain('this is for the operator only: call with MILLRACE_TOKEN')
    const without = await start({ tenants })
    expect((await call(`${without}/v1/stats`, bearer('tenant-a-0123456789'))).body).toContain(
      'set MILLRACE_TOKEN where the gateway runs'
    )
  })
})

describe('a browser', () => {
  it.each(['https://elsewhere.example', 'null', 'http://127.0.0.1:1', 'http://localhost', 'file://'])(
    'cannot be made to call by a page of %s',
    async (origin) => {
      const url = await start()
      const { status, headers, body } = await call(`${url}/v1/who`, { origin }, 'POST')
      expect(status).toBe(403)
      expect(body).toContain('add it to MILLRACE_ORIGINS')
      expect(headers['access-control-allow-origin']).toBeUndefined()
    }
  )

  it('may call from the gateway itself, by each of its names, and so may what is no browser', async () => {
    const url = await start({ hosts: ['gateway.test'] })
    const { port } = new URL(url)
    expect((await call(`${url}/v1/who`, { origin: url }, 'POST')).status).toBe(200)
    for (const host of [`localhost:${port}`, `[::1]:${port}`, `gateway.test:${port}`]) {
      expect((await call(`${url}/v1/who`, { host, origin: `http://${host}` }, 'POST')).status).toBe(200)
    }
    expect((await call(`${url}/v1/who`)).status).toBe(200)
  })

  it('may call from an origin that is named, which can read what it gets, refusals too', async () => {
    const origin = 'https://app.example.com'
    const url = await start({ origins: [origin], operatorToken })
    const asked = await call(
      `${url}/v1/who`,
      { origin, 'access-control-request-method': 'POST', 'access-control-request-headers': 'authorization' },
      'OPTIONS'
    )
    expect(asked.status).toBe(204)
    expect(asked.headers).toMatchObject({
      'access-control-allow-origin': origin,
      'access-control-allow-headers': 'authorization'
    })
    const told = await call(`${url}/v1/who`, { origin, ...bearer(operatorToken) }, 'POST')
    expect(told.status).toBe(200)
    expect(told.headers).toMatchObject({ 'access-control-allow-origin': origin, vary: expect.stringMatching(/origin/i) })
    expect(told.headers['access-control-expose-headers']).toContain('x-millrace-cache')
    const refused = await call(`${url}/v1/who`, { origin }, 'POST')
    expect(refused.status).toBe(401)
    expect(refused.headers['access-control-allow-origin']).toBe(origin)
    expect((await call(`${url}/v1/who`, { origin: `${origin}.evil.example` }, 'OPTIONS')).status).toBe(403)
  })

  it.each(['evil.example', '127.0.0.1.evil.example', 'localhost.evil.example:8787', 'gateway.test.evil.example'])(
    'that was led here by the name %s is sent away from a loopback address',
    async (host) => {
      const url = await start({ hosts: ['gateway.test'] })
      for (const path of ['/', '/v1/who']) {
        const { status, body } = await call(url + path, { host, origin: `http://${host}` })
        expect(status).toBe(403)
        expect(body).toContain('MILLRACE_HOSTS')
      }
    }
  )

  it.each(['cross-site', 'same-site', 'something-new'])(
    'is not believed where it sends no origin but says that the request is %s',
    async (site) => {
      const url = await start({ origins: ['https://app.example.com'] })
      for (const mode of ['no-cors', 'navigate']) {
        for (const method of ['GET', 'HEAD']) {
          const { status } = await call(`${url}/v1/who`, { 'sec-fetch-site': site, 'sec-fetch-mode': mode }, method)
          expect(status).toBe(403)
        }
      }
      expect((await call(`${url}/v1/who`, { 'sec-fetch-site': site })).body).toContain('add its origin to MILLRACE_ORIGINS')
      const origin = 'https://app.example.com'
      expect((await call(`${url}/v1/who`, { 'sec-fetch-site': site, origin })).status).toBe(200)
    }
  )

  it.each(['same-origin', 'none'])('may call without an origin where it says %s', async (site) => {
    const url = await start()
    expect((await call(`${url}/v1/who`, { 'sec-fetch-site': site })).status).toBe(200)
  })

  it('finds an open address by any name, for a token keeps that', async () => {
    const url = await start({ host: '0.0.0.0', operatorToken })
    expect((await call(`${url}/v1/who`, { host: 'gateway.example', ...bearer(operatorToken) })).status).toBe(200)
  })

  it('or whoever else says no host at all is sent away from a loopback address, and an origin is then nobody’s', async () => {
    const plain = async (url: string, more = ''): Promise<string> => {
      const socket = connect(Number(new URL(url).port), '127.0.0.1')
      socket.end(`GET /v1/who HTTP/1.0\r\n${more}\r\n`)
      let text = ''
      for await (const piece of socket) text += String(piece)
      return text
    }
    expect(await plain(await start())).toMatch(/^HTTP\/1\.1 403 .*MILLRACE_HOSTS/s)
    const open = await start({ host: '0.0.0.0', operatorToken })
    const authorization = `authorization: Bearer ${operatorToken}\r\n`
    expect(await plain(open, authorization)).toMatch(/^HTTP\/1\.1 200 /)
    expect(await plain(open, `${authorization}origin: http://127.0.0.1\r\n`)).toMatch(/^HTTP\/1\.1 403 /)
  })
})
