import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { readBatchArguments } from '../src/batch-arguments.ts'
import { type Folder, makeFolder, openaiFile, run, start } from './support.ts'

let folder: Folder
beforeAll(async () => {
  folder = await makeFolder()
  await folder.write('in.jsonl', openaiFile(3))
})
afterAll(() => folder.close())

describe('what is wrong in the arguments is told in one line', () => {
  it.each<[string, string[]]>([
    ['which file', []],
    ['one input file at a time: "b"', ['a', 'b', '--out', 'o']],
    ['give --out', ['a']],
    ['--out needs a value', ['a', '--out']],
    ['--out needs a file', ['a', '--out', '']],
    ['there is no option --outt', ['a', '--outt', 'o']],
    ['--resume takes no value', ['a', '--out', 'o', '--resume=yes']],
    ['--concurrency must be a whole number', ['a', '--out', 'o', '--concurrency', '0']],
    ['--concurrency must be a whole number', ['a', '--out', 'o', '--concurrency', 'NaN']],
    ['--concurrency needs a value', ['a', '--out', 'o', '--concurrency', '-1']],
    ['--concurrency must be a whole number from 1 to 10000', ['a', '--out', 'o', '--concurrency', '9007199254740991']],
    ['--rpm must be a whole number', ['a', '--out', 'o', '--rpm', '1e3']],
    ['--timeout must be a number of seconds', ['a', '--out', 'o', '--timeout', '0']],
    ['--order must be', ['a', '--out', 'o', '--order', 'random']],
    ['--format must be', ['a', '--out', 'o', '--format', 'csv']],
    ["--header must be 'name: value'", ['a', '--out', 'o', '--header', 'nothing']],
    ["--header must be 'name: value'", ['a', '--out', 'o', '--header', 'x: a\nb']],
    ['--api-key-env', ['a', '--out', 'o', '--header', 'Authorization: Bearer sk-canary']],
    ['--api-key-env', ['a', '--out', 'o', '--header', 'Ocp-Apim-Subscription-Key: sk-canary']],
    ['belongs to the connection', ['a', '--out', 'o', '--header', 'Host: b']],
    ['--resume needs a file', ['-', '--out', 'o', '--resume']],
    ['add --resume', ['a', '--out', 'o', '--retry-failed']],
    ['give one of them', ['a', '--out', 'o', '--resume', '--force']],
    ['must be two files', ['a', '--out', 'o', '--errors', 'o']],
    ['cannot be written over', ['a', '--out', 'a']]
  ])('%s', (message, args) => {
    try {
      readBatchArguments(args)
    } catch (error) {
      expect(error).toMatchObject({ name: 'Exit', code: 2 })
      expect((error as Error).message).toContain(message)
      expect((error as Error).message).not.toMatch(/\n|sk-canary/)
      return
    }
    expect.unreachable('it was taken')
  })

  it('what is right is taken', () => {
    expect(
      readBatchArguments(['-', '--out=o', '--header', 'X-A: b: c ', '--header', 'x-d:', '--timeout', '1.5', '--rpm', '60'])
    ).toMatchObject({
      input: '-',
      headers: { 'x-a': 'b: c', 'x-d': '' },
      timeoutMs: 1500,
      requestsPerMinute: 60,
      concurrency: 16
    })
  })
})

describe('the command itself', () => {
  it('tells its version and help on stdout', async () => {
    const [version, help, batchHelp] = await Promise.all([start(['--version']).ended, run(['--help']), run(['batch', '--help'])])
    expect(version).toMatchObject({ code: 0, stdout: expect.stringMatching(/^\d+\.\d+\.\d+\n$/) as string })
    expect(help).toMatchObject({ code: 0, stdout: expect.stringContaining('millrace batch') as string })
    expect(batchHelp).toMatchObject({ code: 0, stdout: expect.stringMatching(/\{"custom_id":[^]*--concurrency/) as string })
  })

  it('ends with 2 and one line for a command or an option that is not there', async () => {
    const runs = await Promise.all([start(['badge']).ended, run([]), run(['batch', 'x', '--out', 'y', '--nope'])])
    for (const { code, stdout, stderr } of runs) {
      expect(code).toBe(2)
      expect(stdout).toBe('')
      expect(stderr).toMatch(/^millrace: .+\n$/)
    }
  })

  it('ends with 2 for a key that is not set, a base URL that is none, and one that shows the key to the network', async () => {
    const batch = (env: Record<string, string | undefined>, ...more: string[]) =>
      run(['batch', folder.path('in.jsonl'), '--out', folder.path('never'), ...more], { env })
    const runs = await Promise.all([
      batch({ OPENAI_API_KEY: undefined }),
      batch({}, '--api-key-env', 'NOT_SET', '--base-url', 'http://127.0.0.1:9'),
      batch({ OPENAI_API_KEY: 'two words' }),
      batch({}, '--base-url', 'localhost:80'),
      batch({}, '--base-url', 'http://provider.example')
    ])
    expect(runs.map(({ code }) => code)).toEqual([2, 2, 2, 2, 2])
    const told = [/set OPENAI_API_KEY/, /set NOT_SET/, /no API key/, /--base-url must be/, /unencrypted/]
    for (const [at, { stderr }] of runs.entries()) expect(stderr).toMatch(told[at] as RegExp)
  })
})
