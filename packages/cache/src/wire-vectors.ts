import { isJsonObject, type Json, type JsonObject } from '@millrace/core'
import { count, objectsOf, openaiUsage, type Verdict, verdict } from './wire-verdict.ts'

/** Embeddings in OpenAI's form, numbers or base64: one for each input of the request, none twice. */
export function judgeEmbeddings(body: JsonObject, request: JsonObject): Verdict | undefined {
  const data = objectsOf(body.data)
  const inputs = inputsOf(request.input)
  if (data.length !== inputs || !areOf(inputs, data) || !data.every(({ embedding }) => isVector(embedding))) return undefined
  return verdict(body.model, openaiUsage(body.usage))
}

/** A list of numbers is one text, cut into tokens. */
function inputsOf(input: Json | undefined): number {
  return Array.isArray(input) && typeof input[0] !== 'number' ? input.length : 1
}

/** Google's embedContent and batchEmbedContents. */
export function judgeGoogleEmbeddings({ embedding, embeddings }: JsonObject, { requests }: JsonObject): Verdict | undefined {
  const all = Array.isArray(requests) ? objectsOf(embeddings) : objectsOf([embedding ?? null])
  const expected = Array.isArray(requests) ? requests.length : 1
  return all.length === expected && all.every(({ values }) => isVector(values)) ? {} : undefined
}

/** Cohere's, Jina's and Voyage's rerank: a score for each of the documents, or for the best `top_n` (Voyage: `top_k`). */
export function judgeRerank(body: JsonObject, { documents, top_n, top_k }: JsonObject): Verdict | undefined {
  const ranked = objectsOf(body.results ?? body.data)
  if (Array.isArray(documents)) {
    const wanted = Math.min(documents.length, count(top_n ?? top_k) || documents.length)
    if (ranked.length < wanted || !areOf(documents.length, ranked)) return undefined
  }
  if (ranked.length === 0 || !ranked.every(({ relevance_score: score }) => typeof score === 'number')) return undefined
  return verdict(body.model, isJsonObject(body.usage) ? openaiUsage(body.usage) : undefined)
}

/** Whether no two of a list, where they say which of the inputs they are of, are of the same one, or of none. */
function areOf(inputs: number, list: readonly JsonObject[]): boolean {
  const indices = list.map(({ index }) => index).filter((index) => typeof index === 'number')
  return new Set(indices).size === indices.length && indices.every((index) => index >= 0 && index < inputs)
}

function isVector(value: Json | undefined): boolean {
  if (Array.isArray(value)) return value.length > 0 && value.every((number) => typeof number === 'number')
  return typeof value === 'string' && value !== ''
}
