import { parseJson } from '@millrace/core'
import { object, type Write } from './content-json.ts'
import { type ContentPlace, quoted, type Text, type TextReader } from './content-text.ts'

// The parts of a message as the conventions' schemas have them. Where they require a field that may not be recorded, the part
// stands without it, which their `GenericPart` allows.

/** An object of the caller, unchecked: each field is read once, and one that is not as it should be throws. */
export type Unchecked = Readonly<Record<string, unknown>>

/** Ids, names and media types are never longer; of a longer one the beginning is recorded. */
const maxNameChars = 256
/** An address that is longer is left out. */
const maxAddressChars = 2048

/** Room in which a part can say at least that it was there. */
export const leastPart = 80

export function omittedParts(count: number): string {
  return `{"type":"omitted","parts":${count}}`
}

export function listOf(value: unknown): ArrayLike<Unchecked> {
  if (!Array.isArray(value)) throw new TypeError('not a list')
  return value
}

function stringOf(value: unknown): string {
  if (typeof value !== 'string') throw new TypeError('not a text')
  return value
}

/** Writes parts whose texts have gone through the reader. */
export interface PartWriter {
  part(part: Unchecked, room: number, where: ContentPlace): string | undefined
  /** A part that is its text; `length` is that of the whole where the text is only its beginning, here and below. */
  text(type: string, text: unknown, room: number, where: ContentPlace, length?: number): string | undefined
  toolCall(call: Unchecked, room: number, where: ContentPlace, length?: number): string | undefined
  /** For objects that are no parts. */
  textField(text: unknown, where: ContentPlace): Write
  nameField(name: unknown, where: ContentPlace): Write
}

export function createPartWriter(reader: TextReader): PartWriter {
  function text(type: string, value: unknown, room: number, where: ContentPlace, length?: number): string | undefined {
    const content = reader.read(value, where, length)
    return content === undefined ? undefined : object(type, room, { content: (left) => quoted(content, left) })
  }

  const field = (content: Text | undefined, maxChars: number): Write => {
    return (room) => (content === undefined ? undefined : quoted(content, Math.min(room, maxChars)))
  }
  const textField: PartWriter['textField'] = (value, where) => field(reader.read(value, where), Number.POSITIVE_INFINITY)
  const nameField = (value: unknown, where: ContentPlace, maxChars: number = maxNameChars): Write => {
    return field(value === undefined ? undefined : reader.read(value, where), maxChars)
  }

  /** The JSON they are while they are whole; a text where they are cut, or no JSON. */
  function argumentsField(value: unknown, where: ContentPlace, length?: number): Write {
    const given = stringOf(value)
    const head = given.slice(0, reader.heldChars)
    const plain = unescaped(head)
    const content = reader.read(plain, where, (length ?? given.length) - head.length + plain.length)
    return (room) => {
      if (content === undefined) return undefined
      const json = content.more === 0 ? escaped(content.text) : ''
      return json !== '' && json.length <= room && parseJson(json) !== undefined ? json : quoted(content, room)
    }
  }

  /** An address without its query, which may hold a key; of what is sent in line only type and size. */
  function media(value: unknown, modality: string, room: number, where: ContentPlace): string | undefined {
    const url = stringOf(value)
    const inline = /^\s*data:(?:([^,]*),)?/i.exec(url.slice(0, maxNameChars))
    if (inline !== null) return blob(inline[1] ?? '', modality, base64Bytes(url, inline[0].length), room, where)
    return object('uri', room, {
      modality: () => `"${modality}"`,
      uri: nameField(addressOf(url), where, maxAddressChars)
    })
  }

  function blob(type: string, modality: string, bytes: number, room: number, where: ContentPlace): string | undefined {
    const mimeType = /^[\w.+-]+\/[\w.+-]+/.exec(type.slice(0, maxNameChars))?.[0]
    return object('blob', room, {
      mime_type: nameField(mimeType, where),
      modality: () => `"${modality}"`,
      bytes: () => String(bytes)
    })
  }

  return {
    text,
    textField,
    nameField,
    toolCall(call, room, where, length) {
      const id = nameField(call.id, where)
      const name = nameField(call.name, where)
      return object('tool_call', room, { id, name, arguments: argumentsField(call.arguments, where, length) })
    },
    part(part, room, where) {
      const { type } = part
      switch (type) {
        case 'text':
        case 'reasoning':
          return text(type, part.text, room, where)
        case 'image':
          return media(part.url, 'image', room, where)
        case 'audio':
          return blob(`audio/${stringOf(part.format)}`, 'audio', base64Bytes(stringOf(part.data)), room, where)
        case 'file': {
          const { fileId } = part
          if (fileId === undefined) return media(part.url, 'document', room, where)
          return object('file', room, { modality: () => '"document"', file_id: nameField(fileId, where) })
        }
        case 'other':
          return object('other', room) // nobody knows its fields, and they may be bytes
        default:
          throw new TypeError('not a part')
      }
    }
  }
}

function addressOf(url: string): string | undefined {
  if (url.length > maxAddressChars || !/^(?:https?|gs|s3):\/\//i.test(url)) return undefined
  const parsed = URL.parse(url)
  return parsed === null ? undefined : `${parsed.protocol}//${parsed.host}${parsed.pathname}`
}

function base64Bytes(text: string, from = 0): number {
  const padding = text.endsWith('==') ? 2 : text.endsWith('=') ? 1 : 0
  return Math.max(0, Math.floor(((text.length - from) * 3) / 4) - padding)
}

/** JSON text without escapes but those of quotes and backslashes: a redaction would take the `n` of `\n` for a letter of a word. */
function unescaped(json: string): string {
  if (!json.includes('\\')) return json
  return json.replace(/\\(?:u([\da-f]{4})|.)/gi, (escape, hex: string | undefined) => {
    const at = 'bfnrt/'.indexOf(escape.charAt(1))
    if (hex === undefined) return '\b\f\n\r\t/'.charAt(at) || escape
    const unit = Number.parseInt(hex, 16)
    return unit === 0x22 || unit === 0x5c ? escape : String.fromCharCode(unit)
  })
}

/** Control characters within strings are escapes again, as JSON wants them. A string without its end is one too, or quotes could make it slow. */
function escaped(json: string): string {
  return json.replace(/"(?:[^"\\]+|\\[^])*"?/g, (string) => {
    // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what JSON has no place for
    return string.replace(/[\u0000-\u001f]/g, (control) => JSON.stringify(control).slice(1, -1))
  })
}
