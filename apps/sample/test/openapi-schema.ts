import { existsSync, readFileSync } from 'node:fs'
import { Ajv2020, type ValidateFunction } from 'ajv/dist/2020.js'
import addFormats from 'ajv-formats'

const file = new URL('../../../../shared/real/suites/schemas/openai/openapi.json', import.meta.url)

/** What is wrong with a value by a schema of OpenAI's own description of its API; nothing when it is right. */
export type Judge = (name: string, value: unknown) => readonly string[]

interface Schema {
  readonly $ref?: string
  readonly anyOf?: readonly Schema[]
  readonly properties?: Readonly<Record<string, { readonly enum?: readonly unknown[] } | undefined>>
}

/** `undefined`, with one visible line, where the description does not lie beside the checkout. */
export function loadSchema(): Judge | undefined {
  if (!existsSync(file)) {
    console.warn("skipped: OpenAI's schema is not at ../shared/real/suites/schemas/openai/openapi.json")
    return undefined
  }
  const { components } = JSON.parse(readFileSync(file, 'utf8'), nullableAsOf31) as {
    components: { schemas: Readonly<Record<string, Schema | undefined>> }
  }
  const ajv = new Ajv2020({ strict: false, allErrors: true, logger: false })
  addFormats.default(ajv)
  ajv.addFormat('unixtime', { type: 'number', validate: Number.isSafeInteger })
  ajv.addSchema({ $id: 'openai', components })
  const compiled = new Map<string, ValidateFunction>()

  /** Of a list of events the one of this type: else each of the others would have something to complain of. */
  function memberOf(union: string, value: unknown): string {
    const members = (components.schemas[union]?.anyOf ?? []).map(({ $ref }) => $ref?.split('/').at(-1) ?? '')
    const { type } = (value ?? {}) as { type?: unknown }
    return members.find((name) => components.schemas[name]?.properties?.type?.enum?.includes(type)) ?? union
  }

  return (union, value) => {
    const name = memberOf(union, value)
    const validate = compiled.get(name) ?? ajv.compile({ $ref: `openai#/components/schemas/${name}` })
    compiled.set(name, validate)
    if (validate(value)) return []
    return (validate.errors ?? []).map(({ instancePath, message }) => `${instancePath} ${message}`)
  }
}

/** The description says it is OpenAPI 3.1 and has `nullable` of 3.0 here and there, which says nothing to 3.1's `enum`. */
function nullableAsOf31(_: string, value: unknown): unknown {
  if (typeof value !== 'object' || value === null || !('nullable' in value) || value.nullable !== true) return value
  const { nullable: __, ...schema } = value
  return { anyOf: [schema, { type: 'null' }] }
}
