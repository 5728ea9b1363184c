// The ways to count the tokens of a text in o200k_base, each loaded when it is asked for. All of them on default settings.
import type { Tokenizer } from '@millrace/tokens'

export type Count = (text: string) => number

export const ours = '@millrace/tokens'
export const model = 'gpt-4.1'

export async function ourTokenizer(): Promise<Tokenizer> {
  const { createTokenizers } = await import('@millrace/tokens')
  return createTokenizers().for(model)
}

export const counters: Readonly<Record<string, () => Promise<Count>>> = {
  async [ours]() {
    const tokenizer = await ourTokenizer()
    return (text) => tokenizer.count(text)
  },

  tiktoken,
  'tiktoken again': tiktoken,

  async 'ai-tokenizer'() {
    const { Tokenizer } = await import('ai-tokenizer')
    const tokenizer = new Tokenizer(await import('ai-tokenizer/encoding/o200k_base'))
    return (text) => tokenizer.count(text)
  },

  async 'gpt-tokenizer'() {
    const { countTokens } = await import('gpt-tokenizer/encoding/o200k_base')
    return (text) => countTokens(text)
  },

  async 'js-tiktoken'() {
    const { Tiktoken } = await import('js-tiktoken/lite')
    const { default: ranks } = await import('js-tiktoken/ranks/o200k_base')
    const encoder = new Tiktoken(ranks)
    return (text) => encoder.encode(text).length
  }
}

async function tiktoken(): Promise<Count> {
  const { get_encoding } = await import('tiktoken')
  const encoder = get_encoding('o200k_base')
  return (text) => encoder.encode_ordinary(text).length
}

export async function counter(name: string): Promise<Count> {
  const count = await counters[name]?.()
  if (count === undefined) throw new TypeError(`${name} is no subject; they are ${Object.keys(counters).join(', ')}`)
  return count
}
