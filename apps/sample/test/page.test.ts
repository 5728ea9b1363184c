import { readdirSync, readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { pageRoutes } from '../src/page.ts'

const app = pageRoutes()
const folder = new URL('../public/', import.meta.url)
const files = readdirSync(folder).filter((name) => /\.(?:js|css|svg)$/.test(name))

/** What a file names among the assets, in markup, styles and imports. */
function named(text: string): string[] {
  const found = [...text.matchAll(/(?:\/assets\/|from '\.\/)([\w.-]+)/g)].map((match) => match[1] as string)
  return [...new Set(found)]
}

test('every file of the page is served, as what it is', async () => {
  expect(files.length).toBeGreaterThan(10)
  for (const name of files) {
    const response = await app.request(`/assets/${name}`)
    expect(response.status, name).toBe(200)
    const type = name.endsWith('.js') ? 'text/javascript' : name.endsWith('.css') ? 'text/css' : 'image/svg+xml'
    expect(response.headers.get('content-type'), name).toContain(type)
    expect(await response.text()).toBe(readFileSync(new URL(name, folder), 'utf8'))
  }
})

test('everything that the files name is served, and nothing comes from elsewhere', async () => {
  const texts = ['index.html', ...files].map((name) => readFileSync(new URL(name, folder), 'utf8'))
  const names = new Set(texts.flatMap(named))
  expect(names).toContain('uPlot.esm.js')
  for (const name of names) expect((await app.request(`/assets/${name}`)).status, name).toBe(200)
  for (const text of texts)
    expect(text.replace('http://www.w3.org/2000/svg', '')).not.toMatch(/(?:src|href|from|url)\W{1,3}(?:https?:)?\/\/\w/)
})

test('scripts and styles stand in files of their own, and no data becomes HTML', () => {
  expect(readFileSync(new URL('index.html', folder), 'utf8')).not.toMatch(/<style|style=|<script>|\son\w+=/)
  for (const name of files.filter((file) => file.endsWith('.js'))) {
    expect(readFileSync(new URL(name, folder), 'utf8'), name).not.toMatch(
      /innerHTML|outerHTML *=|insertAdjacentHTML|document\.write|eval\(/
    )
  }
})

test('the page may load from its own origin only, and stands in no frame', async () => {
  for (const path of ['/', '/assets/main.js']) {
    const { headers } = await app.request(path)
    const policy = headers.get('content-security-policy')
    expect(policy).toContain("default-src 'none'")
    expect(policy).toContain("frame-ancestors 'none'")
    expect(policy).not.toContain('unsafe')
    expect(headers.get('x-content-type-options')).toBe('nosniff')
    expect(headers.get('referrer-policy')).toBe('no-referrer')
  }
})

test('a browser that has a file already is told so', async () => {
  const first = await app.request('/')
  const etag = first.headers.get('etag') as string
  expect(first.headers.get('cache-control')).toBe('no-cache')
  const second = await app.request('/', { headers: { 'if-none-match': etag } })
  expect(second.status).toBe(304)
  expect(await second.text()).toBe('')
  expect((await app.request('/', { headers: { 'if-none-match': '"other"' } })).status).toBe(200)
})

test.each([
  '/assets/tsconfig.json',
  '/assets/../package.json',
  '/assets/..%2fpackage.json',
  '/assets/',
  '/assets/index.html',
  '/index.html'
])('what is not in the list is not served: %s', async (path) => {
  expect((await app.request(path)).status).toBe(404)
})

test('a limit is named in words, and by its place only among several', async () => {
  const { limitNames } = (await load('format.js')) as { limitNames(labels: readonly string[]): string[] }
  expect(limitNames(['limits[0] provider=embedded model=scripted-large'])).toEqual(['provider embedded, model scripted-large'])
  expect(limitNames(['limits[0]'])).toEqual(['all calls'])
  expect(limitNames(['limits[0] tenant=a b=c', 'limits[0] tenant=', 'limits[2]'])).toEqual([
    'limit 1: tenant a b=c',
    'limit 1: no tenant',
    'limit 3: all calls'
  ])
})

test('the history behind the charts is two minutes, however long the page is open and whatever its clock does', async () => {
  const { createHistory } = (await load('history.js')) as {
    createHistory(): { add(snapshot: object): void; series(): { ago: number[] } }
  }
  const history = createHistory()
  const add = (at: number): void => history.add({ at, replica: 'a', stats: { calls: 0, running: 0, origins: {} } })
  for (let second = 0; second < 1000; second++) add(second * 1000)
  expect(history.series().ago).toHaveLength(120)
  for (let second = 0; second < 1000; second++) add(second * 1000 - 3_600_000)
  expect(history.series().ago).toHaveLength(120)
})

/** A script of the page that touches no document. */
function load(name: string): Promise<unknown> {
  return import(new URL(name, folder).href)
}
