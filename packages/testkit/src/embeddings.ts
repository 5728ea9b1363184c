import type { IncomingHttpHeaders } from 'node:http'
import { type Dialect, type JsonObject, Refusal, readLimit, type ScriptedRequest } from './dialect.ts'
import { openaiDialect } from './openai-dialect.ts'
import { seededRandom, seedOf } from './random.ts'

const defaultDimensions = 64
const maxDimensions = 4096
const maxInputs = 2048

/** OpenAI's embeddings: unit vectors that depend on the text only. Texts that mean the same lie as far apart as any others. */
export const embeddingsDialect: Dialect = {
  ...openaiDialect,
  read,
  plain({ request }) {
    const { body, model, tokensIn } = request
    const dimensions = readDimensions(body.dimensions)
    const data = readInputs(body.input).map((input, index) => {
      const vector = unitVector(String(input), dimensions)
      const embedding = body.encoding_format === 'base64' ? Buffer.from(vector.buffer).toString('base64') : [...vector]
      return { object: 'embedding', index, embedding }
    })
    return { object: 'list', data, model, usage: { prompt_tokens: tokensIn, total_tokens: tokensIn } }
  }
}

function read(body: JsonObject, headers: IncomingHttpHeaders): ScriptedRequest {
  const { model, encoding_format: format } = body
  if (typeof model !== 'string' || model === '') throw new Refusal(400, 'you must provide a model', 'model')
  if (format !== undefined && format !== 'float' && format !== 'base64') {
    throw new Refusal(400, "encoding_format must be 'float' or 'base64'", 'encoding_format', 'invalid_value')
  }
  readDimensions(body.dimensions)
  const inputs = readInputs(body.input)
  const text = inputs.join('\n')
  return {
    api: 'openai-embeddings',
    model,
    stream: false,
    prompt: text,
    conversation: text,
    userSpokeLast: true,
    tools: [],
    toolChoice: 'none',
    // An answer has no text, so that it comes as soon as a first token would.
    maxTokens: 0,
    includeUsage: true,
    tokensIn: inputs.reduce((sum, input) => sum + (typeof input === 'string' ? Math.ceil(input.length / 4) : input.length), 0),
    headers,
    body
  }
}

/** Each input is a text or a list of tokens; one alone may stand without its list. */
function readInputs(input: unknown): readonly (string | readonly number[])[] {
  const inputs: readonly unknown[] = Array.isArray(input) && typeof input[0] !== 'number' ? input : [input]
  if (inputs.length === 0 || inputs.length > maxInputs) {
    throw new Refusal(400, `input must have 1 to ${maxInputs} entries`, 'input', 'invalid_value')
  }
  return inputs.map((one) => {
    if (typeof one === 'string' && one !== '') return one
    if (Array.isArray(one) && one.length > 0 && one.every(Number.isInteger)) return one as number[]
    throw new Refusal(
      400,
      'input must be a text that is not empty, a list of tokens, or a list of these',
      'input',
      'invalid_type'
    )
  })
}

function readDimensions(value: unknown): number {
  const dimensions = readLimit(value, 'dimensions')
  if (dimensions === Number.POSITIVE_INFINITY) return defaultDimensions
  if (dimensions <= maxDimensions) return dimensions
  throw new Refusal(400, `dimensions must be at most ${maxDimensions}`, 'dimensions', 'invalid_value')
}

/** In single precision, so that both encodings give the same numbers. */
function unitVector(text: string, dimensions: number): Float32Array<ArrayBuffer> {
  const random = seededRandom(seedOf(text))
  const numbers = Array.from({ length: dimensions }, () => random() * 2 - 1)
  const length = Math.hypot(...numbers)
  return Float32Array.from(numbers, (number) => number / length)
}
