import { existsSync } from 'node:fs'
import { appendFile, link, mkdir, stat, symlink, truncate } from 'node:fs/promises'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import {
  type Folder,
  makeFolder,
  openaiFile,
  openaiLine,
  run,
  type Server,
  sendJson,
  start,
  startServer,
  until
} from './support.ts'

// A process of its own may take seconds to start where the machine is busy.
vi.setConfig({ testTimeout: 120_000 })

let folder: Folder
let server: Server
/** Holds answers back while it is unresolved. */
let gate: Promise<void>
beforeEach(async () => {
  gate = Promise.resolve()
  folder = await makeFolder()
  server = await startServer(async (_, response) => {
    await gate
    sendJson(response, 200, { n: 1 })
  })
  await folder.write('in.jsonl', openaiFile(3))
})
afterEach(async () => {
  await server.close()
  await folder.close()
})

function batch(input: string, ...more: string[]): string[] {
  return ['batch', folder.path(input), '--out', folder.path('out.jsonl'), '--base-url', server.url, ...more]
}

describe('the input', () => {
  it('that can be read only once is refused, for it is read twice', async () => {
    const args = batch('in.jsonl').map((arg) => (arg === folder.path('in.jsonl') ? '/dev/stdin' : arg))
    const { code, stderr } = await start(args, { stdin: openaiFile(3) }).ended
    expect({ code, stderr }).toMatchObject({ code: 2, stderr: expect.stringContaining('pipe it in as -') as string })
    expect(server.seen).toEqual([])
  })

  it('that shrinks while it is read ends the batch with 3, not as done', async () => {
    // More than is read ahead.
    await folder.write('in.jsonl', openaiFile(400, { pad: 'x'.repeat(1000) }))
    const open = Promise.withResolvers<void>()
    gate = open.promise
    const ended = run(batch('in.jsonl', '--concurrency', '2'))
    await until(() => server.seen.length === 2)
    await truncate(folder.path('in.jsonl'), 0)
    open.resolve()
    const { code, stderr } = await ended
    expect(code, stderr).toBe(3)
    expect(stderr).toMatch(/in\.jsonl has changed.*\d+ of 400 items are done.*--resume/)
    expect(existsSync(folder.path('out.jsonl.journal'))).toBe(true)
  })
})

describe('two names of one file are found out, and nothing is written', () => {
  it.each<[string, () => Promise<string[]>, RegExp]>([
    ['the input as output, spelt otherwise', async () => ['--out', `${folder.path('.')}/./in.jsonl`], /input.*--out/],
    [
      'the input as output, by a symbolic link',
      async () => {
        await symlink(folder.path('in.jsonl'), folder.path('soft'))
        return ['--out', folder.path('soft')]
      },
      /input.*--out/
    ],
    [
      'the input as errors, by a hard link',
      async () => {
        await link(folder.path('in.jsonl'), folder.path('hard'))
        return ['--errors', folder.path('hard')]
      },
      /input.*--errors/
    ],
    [
      'errors as output, which is not there yet, by a folder that is a link',
      async () => {
        await symlink(folder.path('.'), folder.path('here'))
        return ['--errors', folder.path('here/out.jsonl')]
      },
      /--out.*--errors/
    ],
    [
      'errors as output, by a link to what is not there yet',
      async () => {
        await symlink('out.jsonl', folder.path('dangling'))
        return ['--errors', folder.path('dangling')]
      },
      /--out.*--errors/
    ],
    ['errors as the journal', async () => ['--errors', folder.path('out.jsonl.journal')], /--errors.*journal/],
    ['errors as the lock', async () => ['--errors', folder.path('out.jsonl.journal.lock')], /--errors.*lock/]
  ])('%s', async (_, more, told) => {
    const args = [...(await more()), '--force']
    const { code, stderr } = await run(batch('in.jsonl', ...args))
    expect({ code, stderr }).toMatchObject({ code: 2, stderr: expect.stringMatching(told) as string })
    expect(await folder.read('in.jsonl')).toBe(openaiFile(3))
    expect(server.seen).toEqual([])
  })

  it('the input as the journal', async () => {
    await folder.write('out.jsonl.journal', openaiFile(3))
    expect(await run(batch('out.jsonl.journal', '--force'))).toMatchObject({ code: 2 })
    expect(await folder.read('out.jsonl.journal')).toBe(openaiFile(3))
  })
})

describe('what cannot be written', () => {
  it('is told with 2 where it is a folder, or its folder is missing', async () => {
    await mkdir(folder.path('dir'))
    await mkdir(folder.path('o.journal'))
    const runs = await Promise.all(
      [
        ['--out', 'dir'],
        ['--errors', 'dir'],
        ['--out', 'o'],
        ['--out', 'no/o'],
        ['--errors', 'no/o']
      ].map(([name = '', file = '']) => run(batch('in.jsonl', name, folder.path(file), '--force')))
    )
    for (const { code, stderr } of runs) {
      expect(code, stderr).toBe(2)
      expect(stderr).toMatch(/^millrace: .*(?:is a folder|its folder is not there).*\n$/)
    }
    expect(server.seen).toEqual([])
  })
})

describe('an earlier run', () => {
  it('that still runs is left alone by --force', async () => {
    const open = Promise.withResolvers<void>()
    gate = open.promise
    const first = run(batch('in.jsonl'))
    await until(() => server.seen.length === 3)
    const { ino } = await stat(folder.path('out.jsonl.journal'))
    const second = await run(batch('in.jsonl', '--force'))
    expect(second).toMatchObject({ code: 3, stderr: expect.stringMatching(/process \d+ has this journal open/) as string })
    expect((await stat(folder.path('out.jsonl.journal'))).ino).toBe(ino)
    open.resolve()
    expect((await first).code).toBe(0)
    expect(await folder.lines('out.jsonl')).toHaveLength(3)
  })

  it('of another input keeps its answers: --resume stops, and where both share items the journal stays', async () => {
    const failing = JSON.stringify({ ...openaiLine(3), url: '/v1/none' })
    await using fussy = await startServer(({ url }, response) =>
      sendJson(response, url === '/v1/none' ? 404 : 200, { n: url.length })
    )
    const args = (input: string): string[] => [...batch(input), '--base-url', fussy.url]
    await folder.write('in.jsonl', `${openaiFile(3)}${failing}\n`)
    expect((await run(args('in.jsonl'))).code).toBe(1)
    const before = [await folder.read('out.jsonl'), await folder.read('out.jsonl.journal')]
    const sent = fussy.seen.length

    await folder.write('other.jsonl', `${JSON.stringify(openaiLine(7))}\n`)
    const other = await run([...args('other.jsonl'), '--resume'])
    expect(other).toMatchObject({ code: 3, stderr: expect.stringMatching(/4 answers.*none of them.*other\.jsonl/) as string })
    expect([await folder.read('out.jsonl'), await folder.read('out.jsonl.journal')]).toEqual(before)
    expect(fussy.seen).toHaveLength(sent)

    await appendFile(folder.path('other.jsonl'), openaiFile(1))
    const both = await run([...args('other.jsonl'), '--resume'])
    expect(both).toMatchObject({ code: 0, stderr: expect.stringMatching(/journal is kept.*3 answers/) as string })
    expect(await folder.lines('out.jsonl')).toHaveLength(2)
    expect((await run([...args('in.jsonl'), '--resume'])).code).toBe(1)
    expect(fussy.seen).toHaveLength(sent + 1)
    expect(await folder.lines('out.jsonl')).toHaveLength(4)
  })

  it('of another address is told by the name of the option, and a file that is no result is not written over', async () => {
    const open = Promise.withResolvers<void>()
    gate = open.promise
    const stopped = start(batch('in.jsonl', '--grace', '0'))
    await until(() => server.seen.length === 3)
    stopped.child.kill('SIGTERM')
    expect((await stopped.ended).code).toBe(143)
    const other = await run([...batch('in.jsonl'), '--resume', '--base-url', 'http://localhost:1'])
    expect(other).toMatchObject({ code: 3, stderr: expect.stringContaining('--base-url') as string })
    expect(other.stderr.match(/out\.jsonl\.journal/g)).toHaveLength(1)
    const again = await run(batch('in.jsonl'))
    expect(again).toMatchObject({ code: 2, stderr: expect.not.stringContaining('did not finish') as string })

    await folder.write('notes', 'precious')
    const errors = await run(batch('in.jsonl', '--resume', '--errors', folder.path('notes')))
    expect(errors).toMatchObject({ code: 2, stderr: expect.stringMatching(/notes.*no result file/) as string })
    expect(await folder.read('notes')).toBe('precious')
  })
})

it('a reader of stderr that leaves does not end the batch', async () => {
  await folder.write('in.jsonl', openaiFile(30))
  const running = start(batch('in.jsonl', '--json-progress', '--errors', folder.path('e.jsonl')))
  running.child.stderr?.destroy()
  expect((await running.ended).code).toBe(0)
  expect(await folder.lines('out.jsonl')).toHaveLength(30)
  expect(existsSync(folder.path('out.jsonl.journal.lock'))).toBe(false)
})
