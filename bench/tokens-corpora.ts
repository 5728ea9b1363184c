// The texts that are counted. Prose and code are those of installed packages and are read where they lie; Chinese and Japanese
// are put together from words. The same texts in every process.
import { globSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { chineseAndJapanese } from './tokens-words.ts'

export type Language = 'English' | 'code' | 'Chinese and Japanese'

const megabyte = 1_000_000
const bytes = { English: 1.15 * megabyte, code: 4 * megabyte, 'Chinese and Japanese': 4 * megabyte }

const makers: Readonly<Record<Language, () => string>> = {
  English: () => {
    const guides = read(
      '{undici,openai,ai,ioredis,keyv,cacheable,zod,lru-cache,bentocache,@langchain/core}/{README.md,docs/**/*.{md,mdx}}'
    )
    const sources = read('{../../node_modules/@types/node/**/*.d.ts,openai/src/resources/**/*.ts,@langchain/core/dist/**/*.d.ts}')
    const remarks = sources.flatMap((source) => Array.from(source.matchAll(/\/\*\*([\s\S]*?)\*\//g), ([, remark = '']) => remark))
    const bare = remarks.map((remark) => remark.replace(/^\s*\* ?/gm, '').replace(/^@\w+/gm, '\n\n'))
    return paragraphs([...guides, ...bare]).join('\n\n')
  },
  code: () => {
    // Of each a part, so that no package makes up the whole.
    const packages = [
      'openai/src/**/*.ts',
      'ai/src/**/*.ts',
      'undici/lib/**/*.js',
      'ioredis/built/**/*.js',
      'bentocache/build/**/*.js'
    ]
    return packages.flatMap((files) => read(files, bytes.code / 3)).join('\n')
  },
  'Chinese and Japanese': () => chineseAndJapanese(bytes['Chinese and Japanese'], 20261123)
}

export const languages: readonly Language[] = ['English', 'code', 'Chinese and Japanese']

/** At most `limit` characters of the files. */
function read(files: string, limit: number = Number.POSITIVE_INFINITY): readonly string[] {
  const folder = join(import.meta.dirname, 'node_modules')
  const texts: string[] = []
  let length = 0
  for (const file of globSync(files, { cwd: folder }).toSorted()) {
    if (length >= limit) break
    const text = readFileSync(join(folder, file), 'utf8')
    // What marks a special token would make some of the counters throw.
    texts.push(text.replaceAll('<|', '< |'))
    length += text.length
  }
  return texts
}

/** Those that are prose: of some length, four fifths of it words, none twice. */
function paragraphs(texts: readonly string[]): readonly string[] {
  const found = new Set<string>()
  for (const text of texts) {
    for (const block of text.replace(/```[\s\S]*?```/g, '\n\n').split(/\n\s*\n/)) {
      const line = block.replace(/\s*\n\s*/g, ' ').trim()
      const words = line.match(/[A-Za-z',.]+(?= |$)/g) ?? []
      if (line.length >= 80 && words.join(' ').length >= 0.8 * line.length) found.add(line)
    }
  }
  return [...found]
}

/** UTF-8. */
export function corpus(language: Language): Buffer {
  const text = Buffer.from(makers[language]())
  if (text.length < megabyte) throw new Error(`only ${text.length} bytes of ${language} were found: are all packages installed?`)
  return text.subarray(0, bytes[language])
}

/**
 * Begins one every `step` bytes, each `size` bytes long or up to three less: whole characters. Each is a string of its own, as
 * one from the network is; a part of a longer one would be of another kind.
 */
export function cuts(text: Buffer, size: number, step: number = size): readonly string[] {
  const pieces: string[] = []
  const wholeUpTo = (end: number): number => {
    let at = end
    while (((text[at] as number) & 0xc0) === 0x80) at--
    return at
  }
  for (let from = 0; from + size < text.length; from += step) {
    pieces.push(text.toString('utf8', wholeUpTo(from), wholeUpTo(from + size)))
  }
  return pieces
}
