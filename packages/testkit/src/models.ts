import { Refusal } from './dialect.ts'

/** Only what a list says: a request may name any model. */
const models: readonly string[] = ['scripted-large', 'scripted-small', 'scripted-embedding']
const created = 1_780_000_000

/**
 * What `GET /v1/models` and `GET /v1/models/:id` answer; `undefined` for another path.
 *
 * @throws {Refusal} 404 for a model that is not listed
 */
export function answerModels(path: string, api: 'openai' | 'anthropic'): object | undefined {
  const describe = api === 'openai' ? describeForOpenAI : describeForAnthropic
  if (path === '/v1/models') {
    const data = models.map(describe)
    if (api === 'openai') return { object: 'list', data }
    return { data, has_more: false, first_id: models[0], last_id: models.at(-1) }
  }
  const id = /^\/v1\/models\/([^/]+)$/.exec(path)?.[1]
  if (id === undefined) return undefined
  if (!models.includes(id)) throw new Refusal(404, `there is no model ${id} here`, 'model', 'model_not_found')
  return describe(id)
}

function describeForOpenAI(id: string): object {
  return { id, object: 'model', created, owned_by: 'scripted' }
}

function describeForAnthropic(id: string): object {
  return { type: 'model', id, display_name: id, created_at: new Date(created * 1000).toISOString() }
}
