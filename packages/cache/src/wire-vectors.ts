import { isJsonObject, type Json, type JsonObject } from '@millrace/core'
import { objectsOf, openaiUsage, type Verdict, verdict } from './wire-verdict.ts'

/** Embeddings in OpenAI's form, numbers or base64: one for each input of the request. */
export function judgeEmbeddings(body: JsonObject, request: JsonObject): Verdict | undefined {
  const data = objectsOf(body.data)
  if (data.length !== inputsOf(request.input) || !data.every(({ embedding }) => isVector(embedding))) return undefined
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

/** Cohere's, Jina's and Voyage's rerank: a score for each of the documents, or for the best `top_n`. */
export function judgeRerank(body: JsonObject): Verdict | undefined {
  const ranked = objectsOf(body.results ?? body.data)
  if (ranked.length === 0 || !ranked.every(({ relevance_score: score }) => typeof score === 'number')) return undefined
  return verdict(body.model, isJsonObject(body.usage) ? openaiUsage(body.usage) : undefined)
}

function isVector(value: Json | undefined): boolean {
  if (Array.isArray(value)) return value.length > 0 && value.every((number) => typeof number === 'number')
  return typeof value === 'string' && value !== ''
}
