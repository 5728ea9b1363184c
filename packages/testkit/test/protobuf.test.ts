import { expect, it } from 'vitest'
import { seededRandom } from '../src/index.ts'
import { readOtlpJson } from '../src/otlp-json.ts'
import { type MessageTables, maxDepth, readProtobuf } from '../src/protobuf.ts'
import { bytes, double, fixed64, number, text, varint } from './protobuf-writer.ts'

const tables: MessageTables = {
  All: {
    1: ['text', 'string'],
    2: ['id', 'id'],
    3: ['flag', 'bool'],
    4: ['half', 'double'],
    5: ['small', 'int32'],
    6: ['big', 'int64'],
    7: ['time', 'fixed64'],
    8: ['amount', 'sfixed64'],
    9: ['counts', 'fixed64[]'],
    10: ['inner', 'All'],
    11: ['inners', 'All[]'],
    12: ['raw', 'bytes']
  }
}

it('reads every type, from bytes and from JSON alike', () => {
  const wire = Buffer.concat([
    text(1, 'grüße'),
    bytes(2, Buffer.from('00ff', 'hex')),
    number(3, 1),
    double(4, 0.5),
    number(5, -1),
    number(6, -(2n ** 60n)),
    fixed64(7, 2n ** 63n),
    fixed64(8, -5n),
    bytes(10, text(1, 'inner')),
    bytes(11, number(5, 1)),
    bytes(11),
    bytes(12, Buffer.from('raw'))
  ])
  const expected = {
    text: 'grüße',
    id: '00ff',
    flag: true,
    half: 0.5,
    small: -1,
    big: -(2n ** 60n),
    time: 2n ** 63n,
    amount: -5n,
    inner: { text: 'inner' },
    inners: [{ small: 1 }, {}]
  }
  const { raw, ...rest } = readProtobuf(wire, tables, 'All')
  expect(rest).toEqual(expected)
  expect(Buffer.from(raw as Uint8Array).toString()).toBe('raw')
  const json = {
    text: 'grüße',
    id: '00FF',
    flag: true,
    half: 0.5,
    small: -1,
    big: `${-(2n ** 60n)}`,
    time: `${2n ** 63n}`,
    amount: -5,
    inner: { text: 'inner' },
    inners: [{ small: 1 }, {}],
    raw: Buffer.from('raw').toString('base64'),
    unknown: [1],
    flags: null
  }
  const { raw: rawOfJson, ...restOfJson } = readOtlpJson(json, tables, 'All')
  expect(restOfJson).toEqual(expected)
  expect(rawOfJson).toEqual(Buffer.from('raw'))
})

it('takes repeated numbers packed and one by one, the last of a field that came twice, and skips what it does not know', () => {
  const packed = bytes(9, fixed64(9, 1n).subarray(1), fixed64(9, 2n).subarray(1))
  const unknown = [
    number(90, 5),
    double(91, 5),
    bytes(92, Buffer.from('x')),
    Buffer.concat([varint((93 << 3) | 5), Buffer.alloc(4)])
  ]
  const wire = Buffer.concat([packed, ...unknown, fixed64(9, 3n), text(1, 'first'), text(1, 'last')])
  expect(readProtobuf(wire, tables, 'All')).toEqual({ counts: [1n, 2n, 3n], text: 'last' })
})

it.each([
  ['cut off', Buffer.from([0x0a, 5, 0x61]), 'All.text: cut off'],
  ['a tag cut off', Buffer.from([0x80]), 'cut off'],
  ['another wire type', double(1, 1), 'All.text: wire type 1 in place of 2'],
  ['bytes that are no UTF-8', bytes(1, Buffer.from([0xff])), 'All.text: '],
  ['half of a surrogate pair', bytes(1, Buffer.from([0xed, 0xa0, 0x80])), 'All.text: '],
  ['a number that does not end', Buffer.concat([Buffer.from([5 << 3]), Buffer.alloc(11, 0xff)]), 'more than ten bytes'],
  ['field 0', number(0, 1), 'field 0'],
  ['a group', varint((50 << 3) | 3), 'wire type 3'],
  ['packed numbers cut off', bytes(9, Buffer.alloc(9)), 'All.counts: cut off']
])('refuses %s', (_, wire, message) => {
  expect(() => readProtobuf(wire, tables, 'All')).toThrow(message)
})

it.each([
  [[], 'All is no object'],
  [{ text: 1 }, 'All.text is no string'],
  [{ text: '\ud83d' }, 'All.text is no string of whole characters'],
  [{ id: 'xyz' }, 'All.id is no id'],
  [{ time: '1.5' }, 'All.time is no fixed64'],
  [{ time: -1 }, 'All.time is no fixed64'],
  [{ time: `${2n ** 64n}` }, 'All.time is no fixed64'],
  [{ amount: `${2n ** 63n}` }, 'All.amount is no sfixed64'],
  [{ big: `${-(2n ** 63n) - 1n}` }, 'All.big is no int64'],
  [{ small: 2 ** 31 }, 'All.small is no int32'],
  [{ half: '1' }, 'All.half is no double'],
  [{ counts: 1 }, 'All.counts is no list'],
  [{ inner: { inner: { small: 1.5 } } }, 'All.small is no int32']
])('refuses the JSON %j', (value, message) => {
  expect(() => readOtlpJson(value, tables, 'All')).toThrow(message)
})

it('refuses messages that lie too deep in each other, without a full stack', () => {
  let wire = bytes(10)
  for (let depth = 0; depth < maxDepth * 2; depth++) wire = bytes(10, wire)
  expect(() => readProtobuf(wire, tables, 'All')).toThrow('too deep')
  let json: object = {}
  for (let depth = 0; depth < maxDepth * 2; depth++) json = { inner: json }
  expect(() => readOtlpJson(json, tables, 'All')).toThrow('too deep')
})

it('gives a message or an Error for any bytes at all (seed 11)', () => {
  const random = seededRandom(11)
  const whole = Buffer.concat([text(1, 'text'), bytes(10, text(1, 'inner'), number(6, 2n ** 50n)), bytes(9, Buffer.alloc(16))])
  let read = 0
  for (let round = 0; round < 5000; round++) {
    const wire = Buffer.from(whole)
    for (let flips = 0; flips < 1 + (round % 3); flips++) wire[Math.floor(random() * wire.length)] = Math.floor(random() * 256)
    try {
      readProtobuf(wire.subarray(0, 1 + Math.floor(random() * wire.length)), tables, 'All')
      read++
    } catch (error) {
      expect((error as Error).constructor.name).toBe('Error')
    }
  }
  expect(read).toBeGreaterThan(100)
})
