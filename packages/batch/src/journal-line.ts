import { crc32 } from 'node:zlib'
import { isJsonObject, type Json, parseJson } from '@millrace/core'

/*
 * One outcome is one line: a checksum over the rest of the line, whose it is, and what it was.
 *   {"sum":"1c291ca3","item":"<22 of base64url>","nth":0,"value":…}
 *   {"sum":"…","item":"…","nth":0,"error":{"message":…}}
 *   {"sum":"…","item":"…","nth":0}, where work had no value
 * The first line is the header: {"sum":"…","millrace":"journal","version":1,"id":"…","options":{…}}
 * What stands before the outcome has a fixed form, so that a file is read without parsing the values in it.
 */

const sumLength = '{"sum":"00000000",'.length
const itemStart = sumLength + '"item":"'.length
const itemEnd = itemStart + 22
const nthStart = itemEnd + '","nth":'.length

/** What stands before the outcome of a line. */
export interface LineHead {
  /** Where the 22 letters of the item's digest begin. */
  readonly digestAt: number
  readonly nth: number
  readonly status: 'fulfilled' | 'rejected'
}

/** A line, with its break. `rest` is JSON text of an object without its first brace. */
export function sealLine(rest: string): string {
  return `{"sum":"${checksum(rest)}",${rest}\n`
}

/** The line of one outcome. `body` is `,"value":…` or `,"error":…`, or empty. */
export function outcomeLine(digest: string, nth: number, body: string): string {
  return sealLine(`"item":"${digest}","nth":${nth}${body}}`)
}

/** Whether a line, without its break, is as it was written. */
export function isSound(line: Buffer): boolean {
  if (line.length <= sumLength || line[0] !== 0x7b) return false
  return line.toString('latin1', 0, sumLength) === `{"sum":"${checksum(line.subarray(sumLength))}",`
}

/** The head of a sound line; `undefined` where it is no outcome. */
export function headOf(line: Buffer): LineHead | undefined {
  if (line.toString('latin1', sumLength, itemStart) !== '"item":"') return undefined
  let nth = 0
  let at = nthStart
  for (let digit = line[at]; digit !== undefined && digit >= 0x30 && digit <= 0x39; digit = line[++at])
    nth = nth * 10 + digit - 0x30
  const rest = line.toString('latin1', at, at + 9)
  if (rest === '}' || rest.startsWith(',"value":')) return { digestAt: itemStart, nth, status: 'fulfilled' }
  if (rest.startsWith(',"error":')) return { digestAt: itemStart, nth, status: 'rejected' }
  return undefined
}

/** What a line says, parsed; `undefined` where it is no JSON object. */
export function fieldsOf(line: Buffer): { readonly [name: string]: Json | undefined } | undefined {
  const fields = parseJson(line.toString())
  return isJsonObject(fields) ? fields : undefined
}

function checksum(text: string | Buffer): string {
  return crc32(text).toString(16).padStart(8, '0')
}
