import type { Json } from '@millrace/core'
import { describe, expect, it } from 'vitest'
import { checkURLs, createNameLookup, type NameLookup } from '../src/image-urls.ts'

const names: Readonly<Record<string, readonly string[]>> = {
  'images.example.com': ['93.184.215.14', '2606:2800:21f:cb07:6820:80da:af6b:8b2c'],
  'inside.example.com': ['10.1.2.3'],
  'both.example.com': ['93.184.215.14', '::ffff:127.0.0.1']
}
const lookup: NameLookup = async (name) => names[name] ?? []

const chat = (url: string): Json => ({
  model: 'm',
  messages: [
    {
      role: 'user',
      content: [
        { type: 'text', text: 'http://127.0.0.1/' },
        { type: 'image_url', image_url: { url } }
      ]
    }
  ]
})
const at = 'messages[0].content[1].image_url.url'
const toldOf = async (body: Json, mode: 'public' | 'data' | 'any' = 'public'): Promise<string | undefined> =>
  checkURLs(body, mode, lookup).then(
    () => undefined,
    (error: Error) => error.message
  )

const notPublic = `${at} leads to an address that is not public: send the content itself as a data: URL`

describe('the URLs of a request', () => {
  it.each([
    'http://127.0.0.1/x',
    'http://2130706433/x',
    'https://[::ffff:10.0.0.1]/x',
    'https://localhost:8787/v1/stats',
    'https://models/x',
    'https://inside.example.com/x?key=canary',
    'https://both.example.com/x'
  ])('may not lead to %s', async (url) => {
    expect(await toldOf(chat(url))).toBe(notPublic)
  })

  it.each([
    'https://images.example.com/x.png',
    'https://8.8.8.8/x',
    'https://8.8.8.8:8443/@user/é?q=a%20b#c',
    'https://8.8.8.8?x',
    'https://[2606:4700:4700::1111]/x',
    'https://bücher.example.com/x',
    'data:image/png;base64,AAAA\nBBBB',
    'https://not-there.example.com/x',
    'no URL',
    ''
  ])('may be %j', async (url) => {
    expect(await toldOf(chat(url))).toBeUndefined()
  })

  it.each([
    'http://1.1.1.1\\@169.254.169.254/',
    ' HTTP:\\\\169.254.169.254/latest',
    'https://8.8.8.8/a\\b',
    'https://8.8.8.8/a b',
    'https://8.8.8.8\t/',
    'https://8.8.8.8/\u0000',
    'https://8.8.8.8/\u007f',
    'https:/8.8.8.8/',
    'https://8.8.8.8@images.example.com/',
    'https://8.8.8.8#@169.254.169.254/',
    'http://169.254.169.254 .example.com/',
    'http://8.8.8.8:99999/'
  ])('are such that every parser reads the same host: not %j', async (url) => {
    expect(await toldOf(chat(url))).toBe(
      `${at} must be a plain URL, such as https://host/path: no user name, space, backslash or control character`
    )
  })

  it.each(['file:///etc/passwd', 'ftp://8.8.8.8/x', 'gopher://8.8.8.8/x'])('have a scheme for the web: not %s', async (url) => {
    expect(await toldOf(chat(url))).toBe(`${at} must be an https, http or data: URL`)
  })

  it('are only those of data where the gateway says so, and any where it says that', async () => {
    expect(await toldOf(chat('https://images.example.com/x'), 'data')).toBe(`${at} this gateway takes data: URLs only`)
    expect(await toldOf(chat('data:image/png;base64,AAAA'), 'data')).toBeUndefined()
    expect(await toldOf(chat('file:///etc/passwd'), 'any')).toBeUndefined()
  })

  it('are found in the shapes of all dialects', async () => {
    const url = 'http://10.0.0.1/'
    const bodies: Json[] = [
      { messages: [{ content: [{ type: 'image_url', image_url: url }] }] },
      {
        input: [
          {
            content: [
              { type: 'input_image', image_url: url },
              { type: 'input_file', file_url: url }
            ]
          }
        ]
      },
      { messages: [{ content: [{ type: 'image', source: { type: 'url', url } }] }] },
      { tools: [{ type: 'mcp', server_url: url }] },
      { mcp_servers: [{ type: 'url', url }] },
      { messages: [{ content: [{ type: 'audio_url', audio_url: url }] }] },
      { messages: [{ content: [{ type: 'video_url', video_url: url }] }] },
      { messages: [{ content: [{ type: 'image_url', image_url: [url] }] }] },
      { messages: [{ content: [{ type: 'image_url', image_url: [[{ a: 1 }, 'x', [{ url }]]] }] }] },
      { contents: [{ fileData: { fileUri: url } }] },
      { imageURLs: ['https://8.8.8.8/', url] },
      { IMAGE_URL: url }
    ]
    for (const body of bodies) expect(await toldOf(body)).toContain('not public')
  })

  it('are refused with the path and without the URL, as the error is told to the caller', async () => {
    const error = await checkURLs(chat('https://inside.example.com/?key=canary'), 'public', lookup).catch(
      (thrown: unknown) => thrown
    )
    expect(error).toMatchObject({ code: 'invalid-request', details: { path: at } })
    expect(JSON.stringify(error)).not.toContain('canary')
  })

  it('may be on sixteen hosts, so that no request asks for a thousand names', async () => {
    const asked: string[] = []
    const body = (hosts: number): Json =>
      Array.from({ length: hosts * 2 }, (_, index) => ({ url: `https://h${index % hosts}.example.com/` }))
    const count: NameLookup = async (name) => {
      asked.push(name)
      return []
    }
    await checkURLs(body(16), 'public', count)
    expect(asked).toHaveLength(16)
    await expect(checkURLs(body(17), 'public', count)).rejects.toThrow('the URLs of a request may be on 16')
    expect(asked).toHaveLength(16)
  })

  it('are found however deep they lie', async () => {
    let body: Json = { url: 'http://10.0.0.1/' }
    for (let depth = 0; depth < 100_000; depth++) body = [body]
    expect(await toldOf(body)).toMatch(/^….*\.url leads to/)
  })

  it('pass where no name server knows or answers, within the time that is given', async () => {
    const startedAt = performance.now()
    await checkURLs({ url: 'https://nowhere.invalid/' }, 'public')
    expect(performance.now() - startedAt).toBeLessThan(5000)
  })

  it('are asked about once, of the last thousand names', async () => {
    const asked: string[] = []
    const kept = createNameLookup(async (name) => {
      asked.push(name)
      return ['8.8.8.8']
    })
    for (const name of ['first', 'first']) expect(await kept(name)).toEqual(['8.8.8.8'])
    expect(asked).toEqual(['first'])
    for (let index = 0; index < 1000; index++) await kept(`name-${index}`)
    await kept('name-999')
    expect(asked).toHaveLength(1001)
    await kept('first')
    expect(asked).toHaveLength(1002)
  })
})
