import { existsSync, globSync, readFileSync } from 'node:fs'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { compress } from '../src/compress.ts'
import { since } from './cpu.ts'

const seed = 20_261_123
const root = new URL('../../../', import.meta.url)
const real = new URL('../shared/real/', root)
const isReal = existsSync(real)
if (!isReal) console.warn(`skipped: no recorded texts at ${real.pathname}`)

const short = (text: string): string => compress(text).text

describe('prose', () => {
  test.each([
    ['runs of spaces become one', 'Hello    world', 'Hello world'],
    ['a tab in a run is no better than a space', 'one \t two', 'one two'],
    ['lines are not joined', 'This   is    a     test.\nIt    has    many   spaces.', 'This is a test.\nIt has many spaces.'],
    ['spaces go from the end of a line', 'Hello world. \nBye\t\n', 'Hello world.\nBye\n'],
    ['and from the end of a paragraph', 'Hello world.    \n\nBye   ', 'Hello world.\n\nBye'],
    ['a line break of Markdown stays', 'Roses are red,    \nviolets are blue.  \n', 'Roses are red,  \nviolets are blue.\n'],
    ['of three line endings two stay', 'One.\n\n\n\n\nTwo.\n\n\n', 'One.\n\nTwo.\n\n'],
    ['at the beginning too', '\n\n\n\nOne.', '\n\nOne.'],
    ['blank lines lose their spaces', 'One.\n  \n\t\nTwo.', 'One.\n\nTwo.'],
    ['line endings stay what they are', 'One   two.\r\n\r\n\r\n\r\nThree.  \r\n', 'One two.\r\n\r\nThree.\r\n'],
    [
      'two spaces behind a sentence are a habit of typists',
      'It was late.  He went\nhome.  "Why?"  She\nasked.',
      'It was late. He went\nhome. "Why?" She\nasked.'
    ],
    [
      'spaces that are not of ASCII stay',
      'a\u00a0\u00a0b\u3000\u3000c  d\u2003\u2003e',
      'a\u00a0\u00a0b\u3000\u3000c d\u2003\u2003e'
    ],
    ['the indentation of a list stays', '- One.  Two\n  - three.  Four\n-   five', '- One. Two\n  - three. Four\n-   five'],
    ['a first line may be indented', '  It was a\ndark and   stormy  night.', '  It was a\ndark and stormy night.'],
    ['a heading keeps its sign', '##  A   title\n\nA   text.', '##  A title\n\nA text.'],
    ['code in a line stays', 'Use  `a  b`  and  ``c  `  d``  there.', 'Use `a  b` and ``c  `  d`` there.'],
    ['what is quoted stays', `Replace  "a   b"  and  'c   d'  in  Ada's  text.`, `Replace "a   b" and 'c   d' in Ada's text.`],
    [
      'wherever the quotation begins',
      `Search  for  key:"a  b",  *'c  d'*  or  -"e  f".`,
      `Search for key:"a  b", *'c  d'* or -"e  f".`
    ],
    [
      'and by which signs',
      "“two  spaces”,  «a  b»,  „c  d“,  »e  f«,  ‘g  h’  —'i  j'—  don’t",
      "“two  spaces”, «a  b», „c  d“, »e  f«, ‘g  h’ —'i  j'— don’t"
    ],
    ['lone surrogates and NUL are characters', 'a  \ud800  b.\n\nc\0  d', 'a \ud800 b.\n\nc\0  d']
  ])('%s', (_, before, after) => {
    expect(short(before)).toBe(after)
  })

  test('a text with nothing to save is given back as it is, and one of spaces alone does not become empty', () => {
    for (const text of ['', 'Hello.', '   ', '\n', '\n\n', ' \n']) expect(short(text).length > 0 || text === '').toBe(true)
    expect(short('   ')).toBe('   ')
    expect(short('\n'.repeat(50))).toBe('\n\n')
  })
})

/** What has to stay, by itself and in the middle of prose that does not. */
const structures: Readonly<Record<string, string>> = {
  'fenced code': '```js\nlet  a   =  1   \n\n\n\nnot closed  by ~~~\n~~~\nlet   b\n```',
  'a fence of tildes': '~~~~ text  with  info\na   b\n~~~\nc   d\n~~~~',
  'a longer fence around a shorter one': '````markdown\n```js\na   b\n```\n\n\n\nc   d\n````',
  'a fence in a list': '- item:\n\n  ```sh\n  ls   -l\n\n\n\n  ```',
  'a fence that begins in an item': '1. ```\n   a   b\n\n\n   c   d\n   ```',
  'a fence in a quotation': '> ```\n> a   b\n>\n>\n> c   d\n> ```',
  'an indented block': '    total   of   all\n\n\n\n    next   line',
  'code between backticks over two lines': 'Some `code  that\ngoes  on` here  now',
  'a backtick without its end': 'A ` that   never\nends   here',
  JSON: '{\n  "a":   [1,  2],\n  "b": "two  words"\n}',
  'an array of texts': '[\n"a   b",\n"c  d"\n]',
  'lines of JSON': '{"a":   "b  c"}\n{"a":   "d   e"}',
  YAML: 'name:   Ada\nage:    36\ntext: |\n  Some   text\n\n  more   text\nitems:\n- a   b',
  'one pair': 'timeout:     30',
  'an INI file': '[server]\nport  =  80\nhost  =  local',
  'a table with pipes': '| a    | b   |\n| ---- | --- |\n| 1    | 2   |',
  'a table of columns': 'Name      Age\nAlice      30\nBob         5',
  'columns to the right': 'Apples      5\nPears     120',
  'a table of tabs': 'a\tb\n1\t2\n3\t4',
  'one row of tabs': 'a\tb\tc',
  CSV: 'Alice,  30,  Paris\nBob,  5,  Rome',
  'a difference': '--- a/x\n+++ b/x\n@@ -1,3 +1,4 @@\n one   two\n-three   four\n+three  four\n \n plain   line',
  'a log': '2026-11-23 08:00:01 INFO   started   up\n2026-11-23 08:00:02 WARN   slow   disk',
  'a traceback': 'Traceback (most recent call last):\n  File "a.py", line 1, in <module>\n    f(a,   b)\nValueError: bad   value',
  'HTML with preformatted text': '<pre>\na   b\n\n\nc   d\n\nplain   words\n</pre>',
  'an attribute': 'See <a title="two  spaces"  href="x">this   page</a> now',
  'a comment of HTML': '<!--\nfirst   part\n\nsecond   part\n-->',
  XML: '<doc>\ntext   with  spaces\n</doc>',
  LaTeX: 'Let $x   +  y$ be \\alpha   as\nabove   here',
  'a verbatim environment': '\\begin{verbatim}\na   b\n\nplain   words  here\n\\end{verbatim}',
  'ASCII art': ' /\\_/\\\n( o.o )   meow\n > ^ <',
  'drawn boxes': '┌────┐   ┌────┐\n│ a  │   │ b  │\n└────┘   └────┘',
  Python:
    'import   os\n\n\n\ndef f(x):\n    """Doc.\n\n    Two  spaces.\n    """\n    return  x\n\n\n\n# a   comment\nprint   (f( 1))',
  'a text in a program': 'text = """\nplain   words\n\n\n\nmore   words\n"""',
  C: '#include   <stdio.h>\n\n/*\nplain   words\n\nmore   words\n*/\nint  main (void)\n{\n\treturn  0;\n}',
  SQL: 'SELECT   name\nFROM     people\nWHERE    age  >  3;',
  'a quotation over two lines': '"first  line\nsecond  line"',
  'a quotation over paragraphs': '“First   line\n\nsecond  line”',
  'a quotation in a quotation': `Say "use 'a  b' and  'c  d'" to   them.`,
  'a quotation that begins in a word': `Type f"a  b" or rb'c  d'   now.`,
  'signs that may be inches or a quotation': 'A 6"  pipe and "a  b" fit   6"',
  'an apostrophe that may end a quotation': "Of 'the dogs'   bowls'  and more.",
  'a backtick that is quoted': 'Type   "`",  not   `.',
  'a table with blank lines': 'Item      Qty\n\nApple     3\n\nPear      12',
  'a table whose columns do not meet': 'Alice   42\nBob  7\nChristopher   13',
  'a table of sentences': 'Alice   Lives in Paris.\nBob  Lives in Rome.',
  'a table of short words': 'approx.  42\nest.  7',
  'a table of quotations': '1,  "b",  "Hello."\n2,  "d   e",  "Bye."',
  'chords over a song': 'C       G        Am\nHello darkness, my old friend\nand another line of it.',
  'Robot Framework': 'Log    Hello    World\nShould Be Equal    a    b',
  'Robot Framework with two spaces': 'Open Browser  about:blank\nClick  Sign in',
  'a list in columns': '- apples   3\n- pears  12',
  'an address': 'Ada  Lovelace\n12  St James Square\nLondon',
  shell: '$ ls   -l\n$ echo   "a   b"'
}

describe('what is not prose stays byte for byte', () => {
  test.each(Object.entries(structures))('%s', (_, text) => {
    expect(short(text)).toBe(text)
    expect(short(text.replaceAll('\n', '\r\n'))).toBe(text.replaceAll('\n', '\r\n'))
    const around = short(`This  is said before it.\n\n\n\n${text}\n\n\n\nAnd  this is said after it.`)
    expect(around).toContain(text)
  })

  test('prose around fenced code is still compressed', () => {
    const code = '```\na   b\n\n\n\nc\n```'
    expect(short(`Some   text.\n\n\n\n${code}\n\n\n\nMore   text.`)).toBe(`Some text.\n\n${code}\n\nMore text.`)
  })

  test('a fence without its end goes on to the end', () => {
    const text = 'Here:\n```js\na   b\n\n\n\nSome   words.'
    expect(short(text)).toBe(text)
  })

  test('front matter at the beginning stays, and what follows it is prose', () => {
    expect(short('---\ntitle:   A\n\n\n\nplain   words\n---\n\nSome   text.')).toBe(
      '---\ntitle:   A\n\n\n\nplain   words\n---\n\nSome text.'
    )
  })

  test('what an inner, further indented fence leaves open is not taken for prose', () => {
    const text = '- list\n  ```\n  a   b\n```\n\nIs  this  code?'
    expect(short(text)).toBe(text)
  })

  test('all source code of this repository stays', () => {
    const files = globSync('packages/*/{src,test}/*.ts', { cwd: root.pathname }).filter((file) => !file.includes('compress'))
    expect(files.length).toBeGreaterThan(50)
    const changed = files.filter((file) => {
      const text = readFileSync(new URL(file, root), 'utf8')
      return short(text) !== text
    })
    expect(changed).toEqual([])
  })
})

/** Pieces of which odd texts are made. */
const pieces = fc.constantFrom(
  ...Object.values(structures),
  'Some   text.',
  'A  line\nand  another',
  '  ',
  '\t',
  '\n',
  '\n\n\n',
  '\r\n',
  '\r',
  '`',
  '``',
  '```',
  '~~~',
  '> ',
  '- ',
  '1.  ',
  '#  ',
  '"',
  "'",
  '<',
  '<pre>',
  '</pre>',
  '/*',
  '*/',
  '"""',
  '|',
  '    ',
  'a:  b',
  ' x  ',
  '\ud83d',
  '\0',
  '\u00a0',
  '{',
  '}',
  '---\n',
  '---'
)
const odd = fc
  .array(fc.oneof(pieces, fc.string({ unit: 'binary', maxLength: 8 })), { maxLength: 14 })
  .map((list) => list.join(''))
const runs = { seed, numRuns: 3000 }

describe(`any text (seed ${seed})`, () => {
  test('compressing twice is compressing once, and neither is longer', () => {
    fc.assert(
      fc.property(odd, (text) => {
        const once = short(text)
        expect(once.length).toBeLessThanOrEqual(text.length)
        expect(short(once)).toBe(once)
      }),
      runs
    )
  })

  test('nothing but spaces, tabs and line endings goes, and no words grow together', () => {
    fc.assert(
      fc.property(odd, (text) => {
        const words = (of: string): string[] => of.split(/[ \t\r\n]+/).filter((word) => word !== '')
        expect(words(short(text))).toEqual(words(text))
      }),
      runs
    )
  })

  test('each line begins as before, and no line is lost but blank ones', () => {
    fc.assert(
      fc.property(odd, (text) => {
        const begins = (of: string): string[] =>
          of
            .split('\n')
            .filter((line) => /[^ \t\r]/.test(line))
            .map((line) => /^[ \t]*[^ \t\r]+/.exec(line)?.[0] ?? '')
        expect(begins(short(text))).toEqual(begins(text))
      }),
      runs
    )
  })

  test('fenced code in prose stays, whatever is in it', () => {
    fc.assert(
      fc.property(odd, odd, (before, inside) => {
        const prose = `${before.replaceAll(/[`~<"'/\\@-]/g, '')}\n\n`
        const code = `~~~~~~~~\n${inside}\n~~~~~~~~\n`
        expect(short(prose + code)).toContain(code)
      }),
      runs
    )
  })
})

/** Of a few signs, so that they meet: quotes and backticks pair in one way or another, and the end of a line parts them. */
const signs = fc
  .array(
    fc.constantFrom(
      '"',
      "'",
      '`',
      '“',
      '”',
      '«',
      '»',
      '(',
      ')',
      '[',
      ']',
      '=',
      '\\',
      '#',
      '-',
      ' ',
      ' ',
      '\t',
      '\n',
      '\n',
      '``',
      '  ',
      '\r\n',
      'word',
      'a',
      '. '
    ),
    { maxLength: 30 }
  )
  .map((list) => list.join(''))

test(`quotes and backticks that pair in several ways lose no word (seed ${seed})`, () => {
  for (const text of ['Type "`", not `.', 'He wrote "use `x" and `y  z`', '``"``"""\'=    \rword[``0``']) {
    expect(short(text)).toBe(text)
  }
  fc.assert(
    fc.property(signs, (text) => {
      const once = short(text)
      expect(once.length).toBeLessThanOrEqual(text.length)
      expect(short(once)).toBe(once)
      expect(once.replaceAll(/[ \t\r\n]+/g, '')).toBe(text.replaceAll(/[ \t\r\n]+/g, ''))
    }),
    { seed, numRuns: 20_000 }
  )
})

test('time is linear in the text, whatever is in it', { timeout: 60_000 }, () => {
  const kinds = {
    backticks: '`',
    'quoted backticks': '"`" ',
    'two sorts of quotes': `"'`,
    'curly quotes': '“',
    'curly and other quotes': ' “a ”b',
    'words in quotes': '"a  b" ',
    rows: 'a  b\n\n',
    'backticks and spaces': '` ',
    newlines: '\n',
    'blank lines': ' \n',
    spaces: ' ',
    gaps: 'a  b ',
    paragraphs: 'a\n\n',
    fences: '```\na\n~~~\n',
    quotes: ' "',
    apostrophes: " 'a",
    tags: '<pre>',
    'closed tags': '<pre>x</pre>',
    comments: '/*\n',
    items: '- ',
    quotations: '> ```\n',
    columns: 'a   b   c\n'
  }
  const took = (text: string): number => {
    const began = process.cpuUsage()
    compress(text)
    return since(began)
  }
  for (const [name, unit] of Object.entries(kinds)) {
    const text = unit.repeat(Math.ceil(1_000_000 / unit.length))
    // A quadratic one would take minutes; most take 10 to 140 ms.
    expect(took(text), name).toBeLessThan(3000)
  }
  // Each run of backticks is of another length, so that none closes another.
  expect(took(Array.from({ length: 1400 }, (_, index) => '`'.repeat(index + 1)).join(' '))).toBeLessThan(3000)
})

describe('what was saved', () => {
  test('is told in characters, and in tokens when there is somebody to count them', () => {
    const tokenizer = { count: (text: string) => text.split(' ').length }
    expect(compress('a  b   c', { tokenizer })).toEqual({ text: 'a b c', savedChars: 3, savedTokens: 3 })
    expect(compress('a  b   c')).toEqual({ text: 'a b c', savedChars: 3, savedTokens: undefined })
  })

  test('is nothing, and nothing is counted, when the text stays', () => {
    const tokenizer = {
      count: (): number => {
        throw new Error('counted')
      }
    }
    expect(compress('a b', { tokenizer })).toEqual({ text: 'a b', savedChars: 0, savedTokens: 0 })
  })

  test('wrong arguments are refused with the cure', () => {
    expect(() => compress(undefined as unknown as string)).toThrow(/takes a string, not undefined/)
    expect(() => compress('a', { tokeniser: 1 } as never)).toThrow(/no option "tokeniser"; it has tokenizer/)
    expect(() => compress('a', { tokenizer: {} as never })).toThrow(/tokenizerFor/)
  })
})

describe.skipIf(!isReal)('real texts', () => {
  test('of the naughty strings none loses a word, and all are stable', () => {
    const strings = JSON.parse(readFileSync(new URL('suites/strings/blns.json', real), 'utf8')) as string[]
    expect(strings.length).toBeGreaterThan(400)
    for (const text of [...strings, strings.join('\n'), strings.join('  '), strings.join('\n\n\n')]) {
      const once = short(text)
      expect(short(once)).toBe(once)
      expect(once.replaceAll(/[ \t\r\n]/g, '')).toBe(text.replaceAll(/[ \t\r\n]/g, ''))
    }
  })

  test('JSON and YAML files stay', () => {
    const names = [
      'suites/jcs/input/weird.json',
      'suites/schemas/otel/gen-ai-registry-deprecated.yaml',
      'traces/mt_bench_questions.jsonl'
    ]
    for (const name of names) {
      const text = readFileSync(new URL(name, real), 'utf8')
      expect(short(text) === text, name).toBe(true)
    }
  })

  test('questions that hold programs keep them', () => {
    const lines = readFileSync(new URL('traces/mt_bench_questions.jsonl', real), 'utf8').trim().split('\n')
    const coding = lines
      .map((line) => JSON.parse(line) as { category: string; turns: string[] })
      .filter(({ category }) => category === 'coding')
    expect(coding.length).toBeGreaterThan(5)
    for (const { turns } of coding) for (const text of turns) expect(short(text)).toBe(text)
  })
})
