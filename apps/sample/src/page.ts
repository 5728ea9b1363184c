import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { extname } from 'node:path'
import { type Context, Hono } from 'hono'
import type { GatewayEnv } from './context.ts'

const contentTypes: Readonly<Record<string, string>> = {
  '.html': 'text/html; charset=utf-8',
  '.css': 'text/css; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.svg': 'image/svg+xml'
}

/** A list, and not what lies in the folder: nothing is served that nobody meant to serve. */
const ours = [
  'api.js',
  'ask.js',
  'calls.js',
  'charts.js',
  'chat.js',
  'dom.js',
  'events.js',
  'faults.js',
  'figures.js',
  'freshness.js',
  'format.js',
  'history.js',
  'icon.svg',
  'live.js',
  'main.js',
  'style.css',
  'theme.js',
  'tries.js'
]
const ofUPlot = ['uPlot.esm.js', 'uPlot.min.css']

/** Everything comes from here, and nobody may put the page into a frame. */
const policy = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "connect-src 'self'",
  "img-src 'self' data:",
  "base-uri 'none'",
  "frame-ancestors 'none'",
  "form-action 'none'"
].join('; ')

/**
 * The page at `/` and its files. It asks the API for all that it shows, with the visitor's token: what is served here is
 * the same for everybody.
 */
export function pageRoutes(): Hono<GatewayEnv> {
  // `public` lies beside `src` and beside `dist`.
  const folder = new URL('../public/', import.meta.url)
  const uPlot = new URL('./', import.meta.resolve('uplot/dist/uPlot.esm.js'))
  const app = new Hono<GatewayEnv>()
  app.get('/', serveFile(new URL('index.html', folder)))
  for (const name of ours) app.get(`/assets/${name}`, serveFile(new URL(name, folder)))
  for (const name of ofUPlot) app.get(`/assets/${name}`, serveFile(new URL(name, uPlot)))
  return app
}

/** Read once: half a megabyte in all. Browsers ask each time whether it is still the same. */
function serveFile(file: URL): (context: Context) => Response {
  const body = readFileSync(file)
  const etag = `"${createHash('sha256').update(body).digest('base64url').slice(0, 27)}"`
  const headers = {
    'content-type': contentTypes[extname(file.pathname)] as string,
    'content-security-policy': policy,
    'x-content-type-options': 'nosniff',
    'referrer-policy': 'no-referrer',
    'cache-control': 'no-cache',
    etag
  }
  return ({ req }) =>
    req.header('if-none-match') === etag ? new Response(null, { status: 304, headers }) : new Response(body, { headers })
}
