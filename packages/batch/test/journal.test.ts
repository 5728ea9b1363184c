import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { constants } from 'node:fs'
import {
  appendFile,
  chmod,
  link as hardLink,
  lstat,
  mkdir,
  mkdtemp,
  open,
  readdir,
  readFile,
  rm,
  stat,
  symlink,
  writeFile
} from 'node:fs/promises'
import { hostname, tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { type BatchOptions, batch, type JournalOptions, type Outcome, openJournal, type Work } from '@millrace/batch'
import { MillraceError } from '@millrace/core'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

let folder = ''
let files = 0
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'journal-'))
})
afterAll(() => rm(folder, { recursive: true }))
const newPath = (): string => join(folder, `${files++}.journal`)

interface Ran<O> {
  readonly outcomes: Outcome<O>[]
  readonly error: unknown
  readonly keys: (string | undefined)[]
  readonly replayed: number
}

/** One run of a batch with the journal at `path`, in the order of the items. */
async function run<I, O>(
  path: string,
  items: Iterable<I>,
  work: Work<I, O>,
  { journal, ...options }: Omit<BatchOptions<I>, 'journal'> & { journal?: JournalOptions<I> } = {}
): Promise<Ran<O>> {
  await using opened = await openJournal<I>(path, journal)
  const keys: (string | undefined)[] = []
  const outcomes: Outcome<O>[] = []
  const running = batch(
    items,
    (item: I, context) => {
      keys.push(context.idempotencyKey)
      return work(item, context)
    },
    { order: 'input', ...options, journal: opened }
  )
  let error: unknown
  try {
    for await (const outcome of running) outcomes.push(outcome)
  } catch (thrown) {
    error = thrown
  }
  return { outcomes, error, keys, replayed: running.progress.replayed }
}

const double = async (item: number): Promise<number> => item * 2
const hundred = Array.from({ length: 100 }, (_, at) => at)

describe('going on', () => {
  test('a second run replays every outcome and runs nothing', async () => {
    const path = newPath()
    const first = await run(path, hundred, double)
    const second = await run(path, hundred, double)
    expect(new Set(first.keys).size).toBe(100)
    expect(second.keys).toEqual([])
    expect(second.replayed).toBe(100)
    expect(second.outcomes).toEqual(hundred.map((index) => ({ index, status: 'fulfilled', value: index * 2, replayed: true })))
  })
  test('it does so in order of completion, one at a time and far apart in the file', async () => {
    const path = newPath()
    const text = 'x'.repeat(20_000)
    await run(path, hundred, async (item) => ({ item, text }))
    const { outcomes } = await run(path, hundred.toReversed(), async () => 'again', { order: 'completion', concurrency: 3 })
    expect(outcomes).toHaveLength(100)
    for (const { index, ...rest } of outcomes) expect(rest).toMatchObject({ value: { item: 99 - index, text }, replayed: true })
  })
  test('items that are new or changed run; equal items are told apart by how often they came', async () => {
    const path = newPath()
    let count = 0
    const first = await run(path, ['a', 'a', 'b'], async () => count++)
    const second = await run(path, ['a', 'b', 'a', 'a', 'B'], async () => count++)
    expect(first.outcomes.map((outcome) => outcome.status === 'fulfilled' && outcome.value)).toEqual([0, 1, 2])
    expect(second.outcomes.map((outcome) => outcome.status === 'fulfilled' && outcome.value)).toEqual([0, 2, 1, 3, 4])
    expect(second.keys).toHaveLength(2)
    expect(second.keys).not.toContain(first.keys[1])
  })
  test('a recorded failure is replayed, or run again with another key where that is asked for', async () => {
    const path = newPath()
    const fail = (item: number): number => {
      if (item === 0) throw new MillraceError('overloaded', 'busy', { details: { status: 529 } })
      if (item === 1) throw Object.assign(new RangeError('too far'), { code: 'E_FAR', secret: 'x' })
      throw 'a string'
    }
    const first = await run(path, [0, 1, 2], fail)
    const second = await run(path, [0, 1, 2], fail)
    const [ours, theirs, other] = second.outcomes
    expect(second.keys).toEqual([])
    expect(ours).toMatchObject({
      status: 'rejected',
      replayed: true,
      reason: { name: 'MillraceError', code: 'overloaded', message: 'busy', retryable: true, details: { status: 529 } }
    })
    expect(theirs).toMatchObject({ reason: { name: 'RangeError', message: 'too far', code: 'E_FAR' } })
    expect(other).toMatchObject({ reason: { message: 'a thrown string: a string' } })
    expect(await readFile(path, 'utf8')).not.toContain('secret')
    const third = await run(path, [0, 1, 2], double, { journal: { retryRejected: true } })
    expect(third.outcomes.every(({ status }) => status === 'fulfilled')).toBe(true)
    expect(third.keys).toEqual(first.keys.map((key) => `${key}-1`))
    expect((await run(path, [0, 1, 2], fail, { journal: { retryRejected: true } })).keys).toEqual([])
  })
  test('an attempt behind a pause has the same key', async () => {
    const { keys } = await run(newPath(), [1], (_, { attempt }) => {
      if (attempt < 3) throw new MillraceError('rate-limited', 'later', { details: { retryAfterMs: 1 } })
      return attempt
    })
    expect(keys).toHaveLength(3)
    expect(new Set(keys).size).toBe(1)
  })
  test('items are told apart by digest where one is given', async () => {
    const path = newPath()
    const journal = { digest: ({ id }: { id: string; at: Date }) => id }
    const items = [{ id: 'a', at: new Date(0) }]
    await run(path, items, () => 1, { journal })
    const second = await run(path, [{ id: 'a', at: new Date(1) }], () => 2, { journal })
    expect(second.outcomes).toMatchObject([{ value: 1, replayed: true }])
    const without = await run(newPath(), items, () => 1)
    expect(without.outcomes).toMatchObject([{ status: 'rejected', reason: { message: expect.stringContaining('digest') } }])
  })
  test('what an abort ended runs again with the same key; what is paid for nevertheless is kept', async () => {
    const path = newPath()
    const controller = new AbortController()
    const late = Promise.withResolvers<number>()
    await using journal = await openJournal<number>(path)
    const keys: (string | undefined)[] = []
    const outcomes = batch(
      [0, 1, 2],
      (item, { idempotencyKey }) => {
        keys.push(idempotencyKey)
        return item === 0 ? 0 : item === 1 ? late.promise : new Promise<number>(() => {})
      },
      { journal, signal: controller.signal, order: 'input' }
    )
    expect((await outcomes.next()).value).toEqual({ index: 0, status: 'fulfilled', value: 0 })
    controller.abort('stop')
    expect((await outcomes.next()).value).toEqual({ index: 1, status: 'rejected', reason: 'stop' })
    late.resolve(11)
    await late.promise
    await journal.close()
    const second = await run(path, [0, 1, 2], async (item) => item)
    expect(second.outcomes.map((outcome) => 'value' in outcome && outcome.value)).toEqual([0, 11, 2])
    expect(second.keys).toEqual([keys[2]])
  })
})

describe('on disk', () => {
  test('an outcome is in the file before it is yielded, in a file of its owner only', async () => {
    const path = newPath()
    await using journal = await openJournal<number>(path)
    for await (const outcome of batch(hundred, double, { journal })) {
      const lines = (await readFile(path, 'utf8')).split('\n')
      expect(lines.some((line) => line.endsWith(`"value":${outcome.index * 2}}`))).toBe(true)
    }
    expect((await stat(path)).mode & 0o777).toBe(0o600)
    const { written, syncs, recorded } = journal.stats()
    expect([written, recorded]).toEqual([100, 100])
    expect(syncs).toBeLessThan(50)
  })
  test('without fsync the disk is not waited for, and every outcome is in the file all the same', async () => {
    const path = newPath()
    const journal: JournalOptions<number> = { fsync: false }
    // One at a time: each outcome is written by itself.
    for (const concurrency of [1, 7]) {
      const items = hundred.map((item) => item + concurrency * 1000)
      expect((await run(path, items, double, { concurrency, journal })).outcomes).toHaveLength(100)
      expect((await run(path, items, double, { concurrency, journal })).replayed).toBe(100)
    }
    await using opened = await openJournal<number>(path, journal)
    for await (const outcome of batch([1], double, { journal: opened })) expect(outcome.status).toBe('fulfilled')
    expect(opened.stats()).toMatchObject({ recorded: 201, written: 1, syncs: 0 })
  })
  test('a torn last line is cut off wherever it was torn, and only that item runs again', async () => {
    const whole = newPath()
    await run(whole, [1, 2, 3], double, { concurrency: 1 })
    const text = await readFile(whole)
    const start = text.lastIndexOf('\n', text.length - 2) + 1
    for (let end = start; end < text.length; end += 7) {
      const path = newPath()
      await writeFile(path, text.subarray(0, end))
      const { keys, outcomes } = await run(path, [1, 2, 3], double)
      expect([keys.length, outcomes.length]).toEqual([1, 3])
      expect((await readFile(path)).length).toBe(text.length)
    }
  })
  test('an empty file becomes a journal; one that is no journal is left as it is', async () => {
    const path = newPath()
    await writeFile(path, '')
    expect((await run(path, [1], double)).outcomes).toHaveLength(1)
    for (const other of [
      'my data',
      '{',
      '{"sum":"my report"}',
      '{"custom_id":1}\n',
      '{"sum":"00000000","millrace":"journal"}\n'
    ]) {
      await writeFile(path, other)
      await expect(openJournal(path)).rejects.toThrow('is not a journal')
      expect(await readFile(path, 'utf8')).toBe(other)
    }
  })
  test('a damaged line in the middle is an error that names the line', async () => {
    const path = newPath()
    await run(path, hundred, double)
    const lines = (await readFile(path, 'utf8')).split('\n')
    lines[40] = lines[40]?.replace('"value":', '"value":1') ?? ''
    await writeFile(path, lines.join('\n'))
    await expect(openJournal(path)).rejects.toThrow(`line 41 of ${path} is damaged`)
    lines.splice(40, 1)
    await writeFile(path, lines.join('\n'))
    expect((await run(path, hundred, double)).keys).toHaveLength(1)
  })
  test('other options are an error that names those that differ and shows none', async () => {
    const path = newPath()
    const same = { model: 'small', prompt: 'a secret', nested: { a: 1, b: 2 } }
    await run(path, [1], double, { journal: { options: same } })
    expect(await readFile(path, 'utf8')).not.toMatch(/secret|small/)
    await run(path, [1], double, { journal: { options: { nested: { b: 2, a: 1 }, prompt: 'a secret', model: 'small' } } })
    const other = openJournal(path, { options: { model: 'large', prompt: 'a secret', nested: { a: 1, b: 2 }, more: 1 } })
    await expect(other).rejects.toThrow('other options (model, more)')
    await expect(openJournal(path)).rejects.toThrow('(model, nested, prompt)')
  })
  test('a fresh journal begins anew whatever is in the file, but not while another has it open', async () => {
    const path = newPath()
    const first = await run(path, [1, 2], double, { journal: { options: { model: 'small' } } })
    const fresh: JournalOptions<number> = { options: { model: 'large' }, fresh: true }
    const holder = await openJournal(path, { options: { model: 'small' } })
    await expect(openJournal(path, fresh)).rejects.toThrow('has this journal open')
    expect(holder.stats().recorded).toBe(2)
    await holder.close()
    const second = await run(path, [1, 2], double, { journal: fresh })
    expect(second.replayed).toBe(0)
    expect(second.keys.some((key) => first.keys.includes(key))).toBe(false)
    expect((await run(path, [1, 2], double, { journal: { options: { model: 'large' } } })).replayed).toBe(2)
    await writeFile(path, 'my data\n')
    expect((await run(path, [1], double, { journal: fresh })).outcomes).toHaveLength(1)
    await using journal = await openJournal(newPath(), fresh)
    expect(journal.stats()).toMatchObject({ recorded: 0, tornBytes: 0 })
  })
  test('another version is an error that says which', async () => {
    const path = newPath()
    await run(path, [], double)
    const { sealLine } = await import('../src/journal-line.ts')
    await writeFile(path, sealLine('"millrace":"journal","version":2,"id":"x","options":{}}'))
    await expect(openJournal(path)).rejects.toThrow('is a journal of version 2')
  })
  test('values that JSON cannot carry are rejected with the reason, and run again', async () => {
    const path = newPath()
    const cycle: { self?: unknown } = {}
    cycle.self = cycle
    const values = [1n, () => 1, cycle, new Date(), { a: Number.NaN }]
    const { outcomes } = await run(path, values.keys(), async (item) => values[item])
    for (const outcome of outcomes) {
      expect(outcome).toMatchObject({
        status: 'rejected',
        reason: { code: 'invalid-request', message: expect.stringMatching(/^value/) }
      })
    }
    expect((await run(path, values.keys(), double)).keys).toHaveLength(values.length)
  })
  test.skipIf(process.platform !== 'linux')(
    'a disk that is full stops the batch; nothing that is not recorded is yielded as done',
    async () => {
      const { createJournalFile } = await import('../src/journal-file.ts')
      await using full = await open('/dev/full', constants.O_WRONLY)
      const file = createJournalFile('/dev/full', full, 0, 'synced')
      await expect(file.append('a line\n').safe).rejects.toThrow('the journal /dev/full could not be written: ENOSPC')
      await expect(file.append('another\n').safe).rejects.toThrow('ENOSPC')
    }
  )
  test('a journal serves one batch at a time, and none once it is closed', async () => {
    const journal = await openJournal<number>(newPath())
    const first = batch(hundred, double, { journal })
    await first.next()
    await expect(batch(hundred, double, { journal }).next()).rejects.toThrow('one batch at a time')
    await first.return()
    const again = batch([1], double, { journal })
    expect((await again.next()).value).toMatchObject({ status: 'fulfilled' })
    await again.next()
    await Promise.all([journal.close(), journal.close()])
    await expect(batch([1], double, { journal }).next()).rejects.toThrow('closed')
  })
  test('wrong options are a TypeError', async () => {
    await expect(openJournal('')).rejects.toThrow(TypeError)
    await expect(openJournal(newPath(), { fsynk: false } as never)).rejects.toThrow('no option "fsynk"')
    await expect(openJournal(newPath(), { digest: 'id' as never })).rejects.toThrow('function')
  })
})

describe('outcomes on their way', () => {
  test('a batch that was left may still be writing: the next one waits for that and pays nothing twice', async () => {
    for (let round = 0; round < 20; round++) {
      await using journal = await openJournal<number>(newPath())
      let paid = 0
      const work = async (item: number): Promise<string> => {
        paid++
        await new Promise((resolve) => setTimeout(resolve, 1 + (item % 3)))
        return `${'x'.repeat(20_000)}${item}`
      }
      const first = batch(hundred, work, { journal, concurrency: 100 })
      await first.next()
      await first.return()
      const before = paid
      const seen: boolean[] = []
      for await (const outcome of batch(hundred, work, { journal, concurrency: 100 })) {
        seen.push(outcome.status === 'fulfilled' && outcome.value.endsWith(`x${outcome.index}`))
      }
      expect(seen).toEqual(Array(100).fill(true))
      expect(paid - before).toBeLessThan(100)
    }
  })
  test('work without a value is recorded all the same', async () => {
    const path = newPath()
    expect((await run(path, [1, 2], async () => {})).outcomes.every(({ status }) => status === 'fulfilled')).toBe(true)
    const second = await run(path, [1, 2], async () => 'again')
    expect(second.outcomes).toEqual([0, 1].map((index) => ({ index, status: 'fulfilled', value: undefined, replayed: true })))
  })
  test('an item that the journal cannot tell from others is rejected at once, whatever the rule of pauses', async () => {
    const { outcomes } = await run(newPath(), [1n, 2n], () => 1, { pause: () => 1, maxPauses: 2 })
    expect(outcomes.map(({ status }) => status)).toEqual(['rejected', 'rejected'])
  })
  test.each(['closed', 'queue-full'] as const)('a %s error of work is not recorded', async (code) => {
    const path = newPath()
    const fail = (): never => {
      throw new MillraceError(code, 'not the fault of the item', { details: { limit: 1 } })
    }
    const first = await run(path, [1, 2, 3], fail, { concurrency: 1, maxPauses: 0 })
    expect(first.outcomes).toHaveLength(code === 'closed' ? 1 : 3)
    expect(first.error).toEqual(code === 'closed' ? expect.objectContaining({ code }) : undefined)
    const second = await run(path, [1, 2, 3], double)
    expect([second.keys.length, second.replayed]).toEqual([3, 0])
  })
  test('closing the journal during a batch ends that at the first outcome that cannot be kept', async () => {
    const journal = await openJournal<number>(newPath())
    let ran = 0
    const outcomes = batch(
      hundred,
      async (item) => {
        ran++
        if (item === 2) void journal.close()
        return item
      },
      { journal, concurrency: 1 }
    )
    await expect(async () => {
      for await (const { status } of outcomes) expect(status === 'fulfilled' || ran === 3).toBe(true)
    }).rejects.toThrow('the journal was closed')
    expect(ran).toBe(3)
  })
  test.skipIf(process.platform !== 'linux')(
    'what cannot be made safe once is never safe again, and no batch begins',
    async () => {
      const path = newPath()
      const journal = await openJournal<number>(path)
      const probe = await open(path)
      const handles = Object.getPrototypeOf(probe) as { datasync: () => Promise<void> }
      await probe.close()
      const { datasync } = handles
      let failed = 0
      handles.datasync = () => Promise.reject(Object.assign(new Error('EIO'), { code: failed++ === 0 ? 'EIO' : 'ETWICE' }))
      try {
        await expect(batch([1], double, { journal }).next()).resolves.toMatchObject({
          value: { status: 'rejected', reason: { message: expect.stringContaining('EIO') } }
        })
        handles.datasync = datasync
        await expect(batch([2], double, { journal }).next()).rejects.toThrow('could not be written: EIO')
        expect(failed).toBe(1)
      } finally {
        handles.datasync = datasync
        await journal.close()
      }
    }
  )
})

describe('where it is', () => {
  test('one file is one journal under all its names', async () => {
    const path = newPath()
    const link = newPath()
    await symlink(path, link) // to a file that is not there yet
    const journal = await openJournal(link)
    await expect(openJournal(path)).rejects.toThrow('has this journal open')
    await expect(openJournal(link)).rejects.toThrow('has this journal open')
    await journal.close()
    const hard = newPath()
    await hardLink(path, hard)
    await expect(openJournal(hard)).rejects.toThrow('hard link')
    expect((await readdir(folder)).filter((name) => name.includes('.lock'))).toEqual([])
  })
  test('a folder that is missing, or in place of the file, is told', async () => {
    await expect(openJournal(join(folder, 'none', 'x'))).rejects.toThrow(
      `the folder ${join(folder, 'none')} of the journal does not exist`
    )
    await expect(openJournal(folder)).rejects.toThrow('is a folder')
  })
  test.skipIf(process.platform === 'win32')('others lose their right to read a file of yours', async () => {
    const path = newPath()
    await run(path, [1], double)
    await chmod(path, 0o644)
    await run(path, [1], double)
    expect((await stat(path)).mode & 0o777).toBe(0o600)
  })
})

describe('the lock', () => {
  test('a second opening is refused with the holder, and closing leaves no file of it', async () => {
    const path = newPath()
    const journal = await openJournal(path)
    await expect(openJournal(path)).rejects.toThrow(`process ${process.pid} has this journal open`)
    await journal.close()
    await (await openJournal(path)).close()
    expect((await readdir(folder)).filter((name) => name.includes('.lock'))).toEqual([])
  })
  test('the lock of a process that is gone is taken over, by one of many', async () => {
    const path = newPath()
    const child = spawn(process.execPath, ['-e', ''])
    await once(child, 'exit')
    await writeFile(`${path}.lock`, JSON.stringify({ pid: child.pid, born: '1', host: hostname(), token: 'x' }))
    const opened = await Promise.allSettled(Array.from({ length: 8 }, () => openJournal(path)))
    expect(opened.filter(({ status }) => status === 'fulfilled')).toHaveLength(1)
    for (const result of opened) {
      if (result.status === 'fulfilled') await result.value.close()
      else expect(String(result.reason)).toContain('has this journal open')
    }
  })
  test.skipIf(process.platform !== 'linux')('a number that another process has by now counts as gone', async () => {
    const path = newPath()
    await writeFile(`${path}.lock`, JSON.stringify({ pid: process.pid, born: '1', host: hostname(), token: 'x' }))
    const journal = await openJournal(path)
    await journal.close()
    expect(await readdir(folder)).not.toContain(`${path}.lock`)
  })
  test('the lock of another machine is respected, and the error says what to remove', async () => {
    const path = newPath()
    await writeFile(`${path}.lock`, JSON.stringify({ pid: 1, born: '1', host: 'elsewhere', token: 'x' }))
    await expect(openJournal(path)).rejects.toThrow(
      `process 1 on elsewhere has this journal open; if that is gone, remove ${path}.lock`
    )
  })
})

describe('files beside it', () => {
  test('a lock that is none of ours is left as it is, and told', async () => {
    const path = newPath()
    await writeFile(`${path}.lock`, 'notes')
    await expect(openJournal(path)).rejects.toThrow(`${path}.lock is no lock of a journal`)
    expect(await readFile(`${path}.lock`, 'utf8')).toBe('notes')
    await writeFile(`${path}.lock`, '') // of a crash of the system
    await (await openJournal(path)).close()
    expect(await readdir(folder)).not.toContain(`${path}.lock`)
  })
  test.skipIf(process.platform === 'win32')('a link in place of the draft is not followed', async () => {
    const path = newPath()
    const victim = newPath()
    await writeFile(victim, 'victim')
    await symlink(victim, `${path}.lock.new`)
    await (await openJournal(path)).close()
    expect(await readFile(victim, 'utf8')).toBe('victim')
    expect((await lstat(path)).isFile()).toBe(true)
  })
  test.skipIf(process.platform === 'win32')('a link to a file that is yet to be made counts from its own folder', async () => {
    const root = await mkdtemp(join(folder, 'links-'))
    await mkdir(join(root, 'b', 'c'), { recursive: true })
    await mkdir(join(root, 'a'))
    await symlink(join(root, 'b', 'c'), join(root, 'a', 'link'))
    await symlink('../x', join(root, 'b', 'c', 'j'))
    await using _ = await openJournal(join(root, 'a', 'link', 'j'))
    expect(await readdir(join(root, 'b'))).toContain('x')
    await symlink('loop', join(root, 'loop'))
    await expect(openJournal(join(root, 'loop'))).rejects.toMatchObject({ code: 'invalid-request' })
  })
  test.skipIf(process.platform !== 'linux')(
    'the lock of a process that was killed and not yet waited for is taken over',
    async () => {
      const path = newPath()
      // A shell that becomes a `sleep` never waits for its child.
      const parent = spawn('sh', ['-c', 'sleep 0 & echo $!; exec sleep 60'])
      try {
        const pid = Number(String((await once(parent.stdout, 'data'))[0]))
        const fields = async (): Promise<string[]> =>
          (await readFile(`/proc/${pid}/stat`, 'utf8')).split(') ')[1]?.split(' ') ?? []
        await expect.poll(async () => (await fields())[0]).toBe('Z')
        await writeFile(`${path}.lock`, JSON.stringify({ pid, born: (await fields())[19], host: hostname(), token: 'x' }))
        await (await openJournal(path)).close()
      } finally {
        parent.kill()
      }
    }
  )
})

test('a value that was paid for outlasts a later failure of its item', async () => {
  const path = newPath()
  {
    await using journal = await openJournal<number>(path)
    const left = batch([1], () => sleep(50, 'paid'), { journal })
    const next = left.next()
    await sleep(5)
    await left.return()
    await next
    const failed = batch([1], () => sleep(120).then(() => Promise.reject(new Error('duplicate'))), { journal })
    expect((await failed.next()).value).toMatchObject({ status: 'rejected' })
    await failed.return()
  }
  const { outcomes } = await run(path, [1], () => 'again')
  expect(outcomes).toEqual([{ index: 0, status: 'fulfilled', value: 'paid', replayed: true }])
})

test('an error of ours is kept in short, like any other', async () => {
  await using journal = await openJournal<number>(newPath())
  const fail = (): never => {
    throw new MillraceError('invalid-request', 'x'.repeat(1e6), { details: { path: 'y'.repeat(1e6) } })
  }
  for await (const { status } of batch([1], fail, { journal })) expect(status).toBe('rejected')
  expect(journal.stats().bytes).toBeLessThan(50_000)
})

test('a replay reads into one buffer, however many items run and whatever their order', async () => {
  const path = newPath()
  const items = Array.from({ length: 20_000 }, (_, at) => at)
  await run(path, items, (item) => `value ${item}`, { concurrency: 500 })
  for (const [order, concurrency] of [
    [items, 2000],
    [items.toReversed(), 16]
  ] as const) {
    const before = process.memoryUsage().arrayBuffers
    await using journal = await openJournal<number>(path)
    let most = 0
    let right = 0
    for await (const outcome of batch(order, () => 'again', { journal, concurrency })) {
      if (outcome.status === 'fulfilled' && outcome.value === `value ${order[outcome.index]}`) right++
      if (outcome.index % 100 === 0) most = Math.max(most, process.memoryUsage().arrayBuffers - before)
    }
    expect(right).toBe(20_000)
    expect(most).toBeLessThan(40_000_000)
  }
})

test('a long line is read in linear time', async () => {
  const time = async (megabytes: number): Promise<number> => {
    const path = newPath()
    await run(path, [1], () => 'z'.repeat(megabytes * 1_000_000))
    const begun = performance.now()
    await (await openJournal(path)).close()
    return performance.now() - begun
  }
  const short = await time(8)
  // Quadratic, it was more than 30 times as long.
  expect(await time(64)).toBeLessThan(Math.max(short, 10) * 20)
}, 30_000)

test('a large journal is opened without its values in memory', async () => {
  const path = newPath()
  const { outcomeLine } = await import('../src/journal-line.ts')
  const { hash } = await import('node:crypto')
  await run(path, [], double)
  const lines = Array.from({ length: 50_000 }, (_, at) =>
    outcomeLine(
      hash('sha256', String(at), 'buffer').subarray(0, 16).toString('base64url'),
      0,
      `,"value":"${'x'.repeat(1000)}${at}"`
    )
  )
  await appendFile(path, lines.join(''))
  lines.length = 0
  globalThis.gc?.()
  const before = process.memoryUsage()
  await using journal = await openJournal<number>(path)
  globalThis.gc?.()
  const after = process.memoryUsage()
  expect(journal.stats().recorded).toBe(50_000)
  expect(after.heapUsed + after.arrayBuffers - before.heapUsed - before.arrayBuffers).toBeLessThan(20_000_000)
  let replayed = 0
  for await (const outcome of batch(Array(50_000).keys(), double as Work<number, unknown>, { journal, order: 'input' })) {
    if (outcome.status === 'fulfilled' && String(outcome.value).endsWith(`x${outcome.index}`)) replayed++
  }
  expect(replayed).toBe(50_000)
})
