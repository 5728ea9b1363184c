// Writes gateway.schema.json from the checks: `node --conditions=@millrace/source apps/sample/test/write-schema.ts`.
import { writeFileSync } from 'node:fs'
import { z } from 'zod'
import { configFileSchema } from '../src/config-file.ts'

const schema = z.toJSONSchema(configFileSchema, { io: 'input' })
writeFileSync(new URL('../gateway.schema.json', import.meta.url), `${JSON.stringify(schema, null, 2)}\n`)
